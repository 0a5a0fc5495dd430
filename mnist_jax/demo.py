"""Serves a page to draw a digit on, which shows the network's input and its prediction.

    python -m mnist_jax.demo --workdir DIR [--step latest|best|N] [--port N]

Examples:
    python -m mnist_jax.demo --workdir runs/mine
    python -m mnist_jax.demo --workdir runs/mine --step best --port 8123
"""

import contextlib
import json
import signal
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

import numpy as np
from absl import flags

from mnist_jax.runtime import command
from mnist_jax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_PORT = flags.DEFINE_integer(
    "port", 8000, "The page's port; 0: any free one.", lower_bound=0, upper_bound=65535
)

_SIDE = 280  # Pixels of the canvas, which the page sends as one byte of grey each.
_NUM_BYTES = _SIDE * _SIDE


def main() -> None:
    """Serves the page until Ctrl-C."""
    from mnist_jax import restoring
    from mnist_jax.digits.normalize import UnreadableImageError, normalize

    model = restoring.restore(_WORKDIR.value, _STEP.value)

    def predict(grey: np.ndarray) -> dict[str, object]:
        try:
            image = normalize(grey[:, :, np.newaxis] / 255)
        except UnreadableImageError:  # Nothing is drawn.
            return {"digit": None}
        (probabilities,) = model.predict(image[np.newaxis])
        return {
            "digit": int(probabilities.argmax()),
            "image": image.ravel().tolist(),
            "probabilities": probabilities.tolist(),
        }

    stroke = np.zeros((_SIDE, _SIDE), np.uint8)
    stroke[70:210, 130:150] = 255
    predict(stroke)  # Compiles before the first request.
    with _Server(predict, _PORT.value) as server:
        print(f"Step {model.step} of {model.workdir}")
        print(f"Draw at http://127.0.0.1:{server.server_port}/ (stop with Ctrl-C)", flush=True)
        # Here Ctrl-C is the normal end, not an error.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class _Server(ThreadingHTTPServer):
    """Answers two requests, on loopback only; reads no file for them.

    `GET /` returns the page. `POST /predict` accepts 280x280 bytes of grey, row by row, and
    returns JSON.
    """

    daemon_threads = True  # Ctrl-C does not wait for open connections of a browser.

    def __init__(self, predict: Callable[[np.ndarray], dict[str, object]], port: int):
        """Opens the port; `predict` is called with `uint8[280, 280]`, in several threads."""
        self.predict = predict
        self.page = resources.files("mnist_jax").joinpath("demo.html").read_bytes()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(f"port: {port}: {error.strerror}; choose another --port") from error

    def handle_error(self, request: object, client_address: object) -> None:
        """Reports bugs, but not that a browser closed a connection."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # Seconds without data after which a connection is closed.

    def do_GET(self) -> None:
        if self.path == "/":
            self._respond("text/html; charset=utf-8", self.server.page)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/predict":
            self.send_error(HTTPStatus.NOT_FOUND)
        elif length.isdecimal() and int(length) > _NUM_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif length != str(_NUM_BYTES) or len(body := self.rfile.read(_NUM_BYTES)) < _NUM_BYTES:
            self.send_error(HTTPStatus.BAD_REQUEST)
        else:
            grey = np.frombuffer(body, np.uint8).reshape(_SIDE, _SIDE)
            prediction = self.server.predict(grey)
            self._respond("application/json", json.dumps(prediction).encode())

    def _respond(self, content_type: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        # The page consists of one file, and connects to this server only.
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            "connect-src 'self'; img-src data:; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, *args: str | None, **named: str | None) -> None:
        if code == HTTPStatus.NOT_IMPLEMENTED:  # The base class's response to other methods.
            code = HTTPStatus.METHOD_NOT_ALLOWED
        super().send_error(code, *args, **named)

    def log_message(self, format: str, *args: object) -> None:
        """Does nothing: a line for each stroke would hide the address of the page."""


if __name__ == "__main__":
    command.run(main)

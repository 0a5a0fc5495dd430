"""A page to draw a digit on: what the network sees of it, and takes it for, as one draws.

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

from mnist_jax.runtime import command as commands
from mnist_jax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_PORT = flags.DEFINE_integer(
    "port", 8000, "Of the page; 0: any free one.", lower_bound=0, upper_bound=65535
)

_SIDE = 280  # Of the canvas, in pixels; the page sends one byte of grey for each.

Predict = Callable[[np.ndarray], dict[str, object]]


def main() -> None:
    """Serves the page until Ctrl-C."""
    from mnist_jax import restoring
    from mnist_jax.digits import normalize as digit_images

    model = restoring.restore(_WORKDIR.value, _STEP.value)

    def predict(grey: np.ndarray) -> dict[str, object]:
        try:
            image = digit_images.normalize(grey[:, :, np.newaxis] / 255)
        except digit_images.UnreadableImageError:
            return {"digit": None, "image": None, "probabilities": None}
        (probabilities,) = model.predict(image[np.newaxis])
        return {
            "digit": int(probabilities.argmax()),
            "image": image.ravel().tolist(),
            "probabilities": probabilities.tolist(),
        }

    stroke = np.zeros((_SIDE, _SIDE), np.uint8)
    stroke[70:210, 130:150] = 255
    predict(stroke)  # Compiles, so that the first who draws need not wait for it.
    with serve(predict, _PORT.value) as server:
        port = server.server_address[1]
        print(f"Step {model.step} of {model.workdir}")
        print(f"Draw at http://127.0.0.1:{port}/ (Ctrl-C ends it)", flush=True)
        # Ctrl-C is the way to end it, not an error.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def serve(predict: Predict, port: int) -> ThreadingHTTPServer:
    """Opens the port, on loopback only; `serve_forever()` then answers.

    `GET /` is the page. `POST /predict` takes 280x280 bytes of grey, row by row, and returns
    the JSON of `predict`. Nothing else is answered, and no file is read for a request.

    Args:
      predict: Gets `uint8[280, 280]`; called in several threads.
      port: 0: any free one; see the server's `server_address`.

    Raises:
      UserError: The port is taken.
    """
    page = resources.files("mnist_jax").joinpath("demo.html").read_bytes()

    class Handler(_Handler):
        def page(self) -> bytes:
            return page

        def predict(self, grey: np.ndarray) -> dict[str, object]:
            return predict(grey)

    try:
        return _Server(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"port: {port}: {error.strerror}; choose another --port") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # Ctrl-C does not wait for a browser's open connections.

    def handle_error(self, request: object, client_address: object) -> None:
        """Tells of a bug; that a browser went away is none."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30  # Seconds that a connection may stay silent, before its thread ends.

    def page(self) -> bytes:
        raise NotImplementedError

    def predict(self, grey: np.ndarray) -> dict[str, object]:
        raise NotImplementedError

    def do_GET(self) -> None:
        if self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._answer("text/html; charset=utf-8", self.page())

    def do_POST(self) -> None:
        if self.path != "/predict":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        length = self.headers.get("Content-Length", "")
        if length != str(_SIDE * _SIDE):
            too_large = length.isdecimal() and int(length) > _SIDE * _SIDE
            self.send_error(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
            )
            return
        body = self.rfile.read(_SIDE * _SIDE)
        if len(body) < _SIDE * _SIDE:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        grey = np.frombuffer(body, np.uint8).reshape(_SIDE, _SIDE)
        self._answer("application/json", json.dumps(self.predict(grey)).encode())

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        # The page is all in one piece, and talks to nobody but this server.
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            "connect-src 'self'; img-src data:; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(body)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Refuses the request, and closes the connection: its body may be unread."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # The base class's answer to another method.
            code = HTTPStatus.METHOD_NOT_ALLOWED
        super().send_error(code, message, explain)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: a line a stroke would bury what the command printed."""


if __name__ == "__main__":
    commands.run(main)

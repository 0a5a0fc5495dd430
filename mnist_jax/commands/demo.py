"""Serves a page to draw a digit on, or drop a picture; it shows the network's prediction.

    mnist-jax demo --workdir DIR [--step latest|best|N] [--member K]
        [--model FILE.py:NAME] [--task FILE.py:NAME] [--host ADDRESS] [--port N]

Examples:
    mnist-jax demo --workdir runs/mine
    mnist-jax demo --workdir runs/mine --host 192.168.1.20
"""

import contextlib
import io
import ipaddress
import json
import re
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

import numpy as np
from absl import flags

from mnist_jax.commands.flags import CHECKPOINT, restore_checkpoint
from mnist_jax.runtime.errors import refusing
from mnist_jax.runtime.terminal import printable

for flag in CHECKPOINT:
    flags.declare_key_flag(flag)

_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "An address of this machine: that in its network, for a phone there."
)
_PORT = flags.DEFINE_integer(
    "port", 8000, "The page's port; 0: any free one.", lower_bound=0, upper_bound=65535
)


def main() -> None:
    """Serves the page until Ctrl-C."""
    from mnist_jax.commands.pictures import create_reader
    from mnist_jax.data.images import UnreadableImageError, open_image

    model = restore_checkpoint()
    read = create_reader(model)

    def predict(file: bytes) -> dict[str, object]:
        try:
            image, note = read(open_image(io.BytesIO(file)))
        except UnreadableImageError as error:  # Such as a sheet on which nothing is drawn.
            return {"error": str(error)}
        prediction = model.predict(image[np.newaxis])[0]
        return {"image": image.ravel().tolist(), "note": note} | prediction

    model.predict(np.zeros((1, *model.input.shape), np.uint8))  # Compiles it.
    about = {
        "run": f"Step {model.step} of {model.workdir}",
        "classes": model.manifest.class_names,
        "shape": model.input.shape,
        # A drawing becomes an input by MNIST's normalization alone.
        "draws": model.manifest.normalization == "mnist",
    }
    with _Server(predict, about, _HOST.value, _PORT.value) as server:
        print(printable(about["run"]))
        print(f"Open {server.url} (stop with Ctrl-C)", flush=True)
        # Here Ctrl-C is the normal end, not an error.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class _Server(ThreadingHTTPServer):
    """Answers two requests, reads no file for them, and no other site may send them.

    `GET /` returns the page. `POST /predict` accepts an image file, and returns JSON. Other
    machines must know the token, which precedes these paths.
    """

    request_queue_size = 128  # Connections that wait for their thread.

    def __init__(
        self,
        predict: Callable[[bytes], dict[str, object]],
        about: Mapping[str, object],
        host: str,
        port: int,
    ):
        """Opens the port; `predict` is called with a file's content, in several threads."""
        self.predict = predict
        page = resources.files("mnist_jax.commands").joinpath("demo.html").read_text()
        # A "<" could end the script.
        model = json.dumps(about).replace("<", "\\u003c")
        self.page = page.replace("MODEL", model, 1).encode()
        advice = "choose another --port or --host"
        with refusing(f"port: {host}:{port}", advice, (OSError, ValueError)):
            super().__init__((host, port), _Handler)  # A ValueError: the host is no name.
        self.address = str(self.server_address[0])
        self.is_local = ipaddress.ip_address(self.address).is_loopback
        self.root = "/" if self.is_local else f"/{secrets.token_urlsafe(16)}/"
        self.url = f"http://{host}:{self.server_port}{self.root}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Reports bugs, but not that a connection was closed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10  # Seconds without a byte from the client.

    def parse_request(self) -> bool:
        """Refuses what another site's page sends, also one whose name leads to this machine."""
        if not super().parse_request():
            return False
        server, path, host = self.server, self.path, self.headers.get("Host", "")
        is_named = not server.is_local or host.split(":")[0] in (server.address, "localhost")
        is_own = is_named and self.headers.get("Origin") in (None, f"http://{host}")
        if not (is_own and path.startswith(server.root)):
            self.send_error(HTTPStatus.FORBIDDEN, "Open the address that the command printed")
            return False
        self.path = f"/{path.removeprefix(server.root)}"
        return True

    def do_GET(self) -> None:
        if self.path == "/":
            self._respond("text/html; charset=utf-8", self.server.page)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if self.path != "/predict":
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not re.fullmatch("[1-9][0-9]{0,7}", size):  # A picture has less than 100 MB.
            self.send_error(HTTPStatus.BAD_REQUEST)
        elif len(body := self.rfile.read(int(size))) == int(size):  # Else the client is gone.
            self._respond("application/json", json.dumps(self.server.predict(body)).encode())

    def _respond(self, content_type: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        # The page consists of one file, and connects to this server only.
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            "connect-src 'self'; img-src data: blob:; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Does nothing: a line for each stroke would hide the address of the page."""

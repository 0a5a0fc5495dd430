"""Draws a run's figures off the way of training, in a process of its own.

The process is this module run as a program; see `worker_process`.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mnist_jax.reporting import worker_process
from mnist_jax.reporting.worker_process import WorkerProcess
from mnist_jax.runtime.errors import writing_to

# What `figures.draw` draws, and TensorBoard calls `figures/<name>`.
NAMES = ("calibration", "confusion_matrix", "first_layer", "learning_curves", "mistakes")

WriteImages = Callable[[int, Mapping[str, bytes]], None]


_started: WorkerProcess | None = None
_start_lock = threading.Lock()


def start() -> None:
    """Begins the import of matplotlib, which else the next `Drawing` does."""
    global _started
    with _start_lock:
        _started = _started or WorkerProcess("mnist_jax.reporting.figure_worker")


class Drawing:
    """Draws what it is given into PNG files, and hands the pictures to a writer.

    A figure not yet begun gives way to a newer one: however often a run evaluates, it waits
    at its end for two at most.
    """

    def __init__(self, folder: Path, write_images: WriteImages):
        """Starts the process.

        Args:
          folder: Of the PNG files; created.
          write_images: Gets step and pictures, PNGs by tag, in another thread.

        Raises:
          WriteError: The folder can't be created.
        """
        with writing_to(folder):
            folder.mkdir(exist_ok=True)
        self._folder = folder
        self._write_images = write_images
        self._error: Exception | None = None
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=1)
        self._worker = _take_started()
        self._thread = threading.Thread(target=self._serve, name="drawing")
        self._thread.start()

    def draw(self, **arguments: Any) -> None:
        """Asks for `figures.draw(**arguments)`; returns at once.

        Raises:
          WriteError: The files of an earlier one could not be written.
        """
        self._check()
        self._replace_waiting(arguments)

    def close(self, *, wait: bool = True) -> None:
        """Waits until the last one is drawn.

        Args:
          wait: Where False, what is not drawn yet never is.

        Raises:
          WriteError: The files of one of them could not be written.
        """
        if not wait:
            self._worker.kill()
        self._waiting.put(None)
        self._thread.join()
        self._worker.kill()  # All is answered; to end by itself would take its time.
        self._worker.close()
        if wait:
            self._check()

    def _replace_waiting(self, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(queue.Empty):
            self._waiting.get_nowait()
        self._waiting.put(arguments)

    def _check(self) -> None:
        if self._error is not None:
            with writing_to(self._folder):
                raise self._error

    def _serve(self) -> None:
        is_ready = False
        while (arguments := self._waiting.get()) is not None:
            if self._error is not None:
                continue
            try:
                if not is_ready:
                    is_ready = self._worker.receive() is None
                self._request(arguments)
            except Exception as error:
                self._error = error

    def _request(self, arguments: dict[str, Any]) -> None:
        self._worker.send((self._folder, arguments))
        answer = self._worker.receive()
        if isinstance(answer, Exception):
            raise answer
        tagged = {f"figures/{name}": png for name, png in answer.items()}
        self._write_images(arguments["step"], tagged)


def _take_started() -> WorkerProcess:
    global _started
    with _start_lock:
        worker, _started = _started, None
    return worker or WorkerProcess("mnist_jax.reporting.figure_worker")


def _prepare() -> Callable[[Any], dict[str, bytes] | Exception]:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # It would tell of its font cache.
    from mnist_jax.reporting import figures

    def respond(request: tuple[Path, dict[str, Any]]) -> dict[str, bytes] | Exception:
        """Returns the pictures by name, or the error that it came to."""
        folder, arguments = request
        try:
            return figures.save_all(folder, figures.draw(**arguments))
        except Exception as error:
            return error

    return respond


if __name__ == "__main__":
    worker_process.serve(_prepare)

"""Draws a run's figures off the way of training, in a process of its own.

matplotlib is nearly all Python: in a thread it would hold up the training's own Python, and
wait for the import of TensorFlow, which the event writer's thread is at. The process is this
module run as a program; it ends when its stdin does, so also when the run is killed.
"""

import contextlib
import gc
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mnist_jax.errors import writing_to

WriteImages = Callable[[int, Mapping[str, np.ndarray]], None]


class Drawing:
    """Draws what it is given into PNG files, and hands the pictures to a writer.

    A figure not yet begun gives way to a newer one: however often a run evaluates, it waits
    at its end for two at most.
    """

    def __init__(self, folder: Path, write_images: WriteImages):
        """Starts the process.

        Args:
          folder: Of the PNG files; created.
          write_images: Gets step and pictures, `uint8[1, height, width, 3]` by tag, in
            another thread.

        Raises:
          WriteError: The folder can't be created.
        """
        with writing_to(folder):
            folder.mkdir(exist_ok=True)
        self._folder = folder
        self._write_images = write_images
        self._error: Exception | None = None
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=1)
        package = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mnist_jax.drawing", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the run, which still wants its figures.
        )
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
            self._process.kill()
        self._waiting.put(None)
        self._thread.join()
        self._process.communicate()
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
        while (arguments := self._waiting.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._request(arguments)
            except Exception as error:
                self._error = error

    def _request(self, arguments: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(arguments, self._process.stdin)
        self._process.stdin.flush()
        try:
            answer = pickle.load(self._process.stdout)
        except EOFError as error:
            raise OSError("the process that draws was killed") from error
        if isinstance(answer, Exception):
            raise answer
        tagged = {f"figures/{name}": pixels[np.newaxis] for name, pixels in answer.items()}
        self._write_images(arguments["step"], tagged)


def _main(folder: Path, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers each pickled request with the pixels by name, or with the error."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # It would tell of its font cache.
    from mnist_jax import figures

    gc.freeze()  # What is imported stays: no collection needs to walk over it.
    while True:
        try:
            arguments = pickle.load(requests)
        except EOFError:
            return
        answer: dict[str, np.ndarray] | Exception
        try:
            answer = figures.save_all(folder, figures.draw(**arguments))
        except Exception as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)

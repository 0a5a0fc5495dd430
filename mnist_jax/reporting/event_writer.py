"""TensorBoard's event files, by clu's writer, off the way of training.

clu's writer works in a process of its own, `event_process`, one for all the runs of
this process. There something else can stand in TensorFlow's place, which clu imports only to
write (see `tensorflow_summary`); and what it imports, half a second of a core, and what it
writes hold up no training. Nobody waits for it before the end of a run.
"""

import atexit
import importlib.util
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.reporting.worker_process import WorkerProcess
from mnist_jax.runtime.errors import writing_to


class _EventProcess:
    """The process, and the thread that talks with it."""

    def __init__(self) -> None:
        self._worker = WorkerProcess("mnist_jax.reporting.event_process")
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="event_writer")
        self.imported = self.thread.submit(self._worker.receive)
        atexit.register(self.kill)

    def is_ready(self) -> bool:
        return self.imported.done()

    def has_ended(self) -> bool:
        return self._worker.has_ended()

    def call(self, *request: Any) -> None:
        """Has the request served; in the thread, once clu is imported."""
        self.imported.result()
        self._worker.send(request)
        error = self._worker.receive()
        if error:
            raise OSError(error)

    def kill(self) -> None:
        self._worker.kill()
        self.thread.shutdown(cancel_futures=True)
        self._worker.close()
        atexit.unregister(self.kill)


_event_process: _EventProcess | None = None


def is_available() -> bool:
    """Returns whether TensorBoard is installed; without it no event files are written."""
    return importlib.util.find_spec("tensorboard") is not None


def start() -> None:
    """Begins the process's imports, which else the first `EventWriter` does."""
    global _event_process
    if _event_process and _event_process.has_ended():
        stop()
    if _event_process is None and is_available():
        _event_process = _EventProcess()


def when_ready(action: Callable[[], None]) -> None:
    """Calls a function once the process has imported, in another thread, or without one."""

    def act(imported: Future[None]) -> None:
        if not imported.cancelled() and imported.exception() is None:
            action()

    if _event_process:
        _event_process.imported.add_done_callback(act)
    else:
        action()


def stop() -> None:
    """Ends the process at once, whatever is still to be written."""
    global _event_process
    if _event_process:
        _event_process.kill()
        _event_process = None


class EventWriter:
    """A `clu.metric_writers.SummaryWriter` whose calls return at once.

    An error of the process is raised by a later call, at the latest by `close`.
    """

    def __init__(self, logdir: Path):
        """Writes nothing yet.

        Args:
          logdir: Folder of the event files.
        """
        self._logdir = logdir
        start()
        self._process = _event_process
        self._error: Exception | None = None

    def _call(self, method: str, *arguments: Any) -> None:
        if self._process:
            self._submit(self._process.call, str(self._logdir), method, arguments)

    def _submit(self, write: Callable[..., None], *arguments: Any) -> Future[None]:
        self._raise_error()
        assert self._process
        return self._process.thread.submit(self._run, write, arguments)

    def _run(self, write: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._error:
            return
        try:
            write(*arguments)
        except Exception as error:
            self._error = error

    def _raise_error(self) -> None:
        if self._error:
            with writing_to(self._logdir, Exception):
                raise self._error

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes each number under its tag."""
        self._call("write_scalars", step, scalars)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes each text (Markdown) under its tag."""
        self._call("write_texts", step, texts)

    def write_images(self, step: int, images: Mapping[str, bytes]) -> None:
        """Writes each PNG under its tag."""
        self._call("write_images", step, images)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the distribution of each array's numbers under its tag."""
        self._call("write_histograms", step, arrays)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the row of this run in the HParams tab."""
        self._call("write_hparams", hparams)

    def write_graph(self, tag: str, function: Callable[..., Any], *example_args: Any) -> None:
        """Writes the graph of a function; see `graph.write_graph`."""

        def write() -> None:
            from mnist_jax.reporting import (
                graph,  # TensorBoard's protocol buffers: a tenth of a second.
            )

            graph.write_graph(self._logdir, function, *example_args, tag=tag)

        if self._process:
            self._submit(write)

    def flush(self, *, wait: bool) -> None:
        """Has everything so far written to the disk, and perhaps waits for it."""
        self._call("flush")
        if wait and self._process:
            self._submit(lambda: None).result()
            self._raise_error()

    def close(self, *, wait_for_import: bool = True) -> None:
        """Waits until everything is written.

        Args:
          wait_for_import: Where False, and the process is still importing, nothing is
            written, and nobody waits.

        Raises:
          WriteError: A write failed.
        """
        if not self._process:
            return
        if not self._process.is_ready() and not wait_for_import:
            stop()
            return
        call = self._process.call, (str(self._logdir), "close", ())
        self._process.thread.submit(self._run, *call).result()
        self._raise_error()

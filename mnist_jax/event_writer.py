"""TensorBoard's event files, by clu's writer, off the way of training.

clu's writers import TensorFlow, 3 to 5 s. A worker thread imports it while the steps run,
then writes what has queued up; nobody waits before the end of the run.
"""

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.errors import writing_to
from mnist_jax.tensorflow_import import import_tensorflow


class EventWriter:
    """A `clu.metric_writers.SummaryWriter` whose calls return at once.

    A WriteError of the worker is raised by a later call, at the latest by `close`.
    """

    def __init__(self, logdir: Path):
        """Does nothing yet: the first call starts the import of TensorFlow.

        Make that call only once jax, flax and orbax are imported: beside them the import of
        TensorFlow can fail.
        """
        self._logdir = logdir
        self._writer: Any = None
        self._error: Exception | None = None
        self._is_used = False
        self._is_closed = False
        # Not clu's asynclib, which logs an error with its traceback before it raises it.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="event_writer")

    def _submit(self, write: Callable[[Any], None]) -> None:
        self._raise_error()
        self._is_used = True
        self._worker.submit(self._run, write)

    def _run(self, write: Callable[[Any], None]) -> None:
        if self._error:
            return
        try:
            if self._writer is None:
                import_tensorflow()
                from clu import metric_writers

                if self._is_closed:
                    return
                # On a full disk TensorFlow would write lines of its own to stderr.
                with tempfile.NamedTemporaryFile(dir=self._logdir) as probe:
                    probe.write(bytes(4096))
                self._writer = metric_writers.SummaryWriter(str(self._logdir))
            write(self._writer)
        except Exception as error:  # TensorFlow's errors are not OSErrors.
            self._error = self._error or error

    def _raise_error(self) -> None:
        if self._error:
            with writing_to(self._logdir, Exception):
                raise self._error

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes each number under its tag."""
        self._submit(lambda writer: writer.write_scalars(step, scalars))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes each text (Markdown) under its tag."""
        self._submit(lambda writer: writer.write_texts(step, texts))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes each `[n, height, width, channels]` under its tag."""
        self._submit(lambda writer: writer.write_images(step, images))

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the distribution of each array's numbers under its tag."""
        self._submit(lambda writer: writer.write_histograms(step, arrays))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the row of this run in the HParams tab."""
        self._submit(lambda writer: writer.write_hparams(hparams))

    def write_graph(self, tag: str, function: Callable[..., Any], *example_args: Any) -> None:
        """Writes the graph of a function; see `graph.write_graph`."""

        def write(writer: Any) -> None:
            from mnist_jax import graph  # TensorBoard's protocol buffers: a tenth of a second.

            graph.write_graph(self._logdir, function, *example_args, tag=tag)

        self._submit(write)

    def flush(self) -> None:
        """Asks for everything so far to be on disk soon; does not wait."""
        self._submit(lambda writer: writer.flush())

    def close(self, *, wait_for_import: bool = True) -> None:
        """Waits until everything is written.

        Args:
          wait_for_import: Where False, and TensorFlow is still being imported, nothing is
            written, and nobody waits.

        Raises:
          WriteError: A write failed.
        """
        if self._writer is None and not wait_for_import:
            self._is_closed = True
            self._worker.shutdown(wait=False, cancel_futures=True)
            return
        if self._is_used:
            self._worker.submit(self._run, lambda writer: writer.close())
        self._worker.shutdown()
        self._raise_error()

"""TensorBoard's event files, by clu's writer, off the way of training.

clu's writers import TensorFlow, 3 to 5 s. A worker thread imports it while the steps run,
then writes what has queued up; nobody waits before the end of the run.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from clu import asynclib

from mnist_jax.tensorflow_import import import_tensorflow


class EventWriter:
    """A `clu.metric_writers.SummaryWriter` whose calls return at once.

    An error of the worker is raised by a later call, at the latest by `close`.
    """

    def __init__(self, logdir: Path):
        """Starts importing TensorFlow.

        Create it only once jax, flax and orbax are imported: beside them the import of
        TensorFlow can fail.
        """
        self._logdir = str(logdir)
        self._writer: Any = None
        self._pool = asynclib.Pool(thread_name_prefix="event_writer", max_workers=1)
        self._submit = self._pool(self._run)
        self._submit(lambda writer: None)

    def _run(self, write: Callable[[Any], None]) -> None:
        if self._writer is None:
            import_tensorflow()
            from clu import metric_writers

            self._writer = metric_writers.SummaryWriter(self._logdir)
        write(self._writer)

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

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          clu.asynclib.AsyncError: A write failed.
        """
        try:
            self._submit(lambda writer: writer.close())
        finally:
            self._pool.close()

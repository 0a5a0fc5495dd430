"""TensorBoard's event files, written by clu in a thread and without TensorFlow.

clu's `SummaryWriter` calls `tf.summary`. Importing TensorFlow for it would cost 2 s and
600 MB, while TensorBoard itself contains the formats. So the writer is a private copy of clu's,
with a stand-in for `tf.summary`, whether TensorFlow is loaded or not.
"""

import contextlib
import functools
import os
import re
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clu import asynclib

from mnist_jax.runtime.errors import writing_to
from mnist_jax.runtime.run_folder import SUB_RUNS


class EventWriter:
    """Calls clu's `SummaryWriter` in a thread; raises the WriteError of an earlier call.

    TensorBoard draws the same tag of several runs, which are folders, in one chart. So each
    sub-run has a folder in `logdir`, and a writer; `logdir` itself is the run "".
    """

    def __init__(self, logdir: Path):
        """Starts the import of clu; the first event of a run creates its file."""
        self._logdir = logdir
        self._pool = asynclib.Pool("event_writer", max_workers=1)
        self._writers: dict[str, Any] = {}  # Used in the thread alone.

        def create() -> None:
            for run in ("", *SUB_RUNS):
                self._writers[run] = import_summary_writer()(str(logdir / run))

        self.submit(create)

    def submit(self, function: Callable[[], object]) -> None:
        """Calls a function in the thread; returns at once."""
        with writing_to(self._logdir, Exception):
            self._pool(function)()

    def call(self, method: str, *arguments: Any, run: str = "") -> None:
        """Calls a method of a run's `SummaryWriter` in the thread; returns at once."""
        self.submit(lambda: getattr(self._writers[run], method)(*arguments))

    def write_hparams(self, hparams: Mapping[str, Any], trial: str) -> None:
        """Writes a row of the HParams tab; clu would name its trial by a digest."""

        def write() -> None:
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb

            write_once(self._logdir, hparams_pb(hparams, trial_id=trial))

        self.submit(write)

    def write_ranges(self, tags: Sequence[str]) -> None:
        """Writes a chart for each tag: its curves, inside the range of several members.

        The Custom Scalars tab shows them. The bounds of `TAG` are `range/TAG_min` and `_max`.
        """

        def write() -> None:
            from tensorboard.plugins.custom_scalar import layout_pb2, metadata

            charts = []
            for tag in tags:
                bounds = {"lower": f"range/{tag}_min", "upper": f"range/{tag}_max"}
                charts.append({"title": tag, "margin": {"series": [{"value": tag, **bounds}]}})
            category = {"title": "Mean of the seeds, and their range", "chart": charts}
            content = layout_pb2.Layout(category=[category]).SerializeToString()
            kind = metadata.create_summary_metadata()
            write_once(self._logdir, create_summary(metadata.CONFIG_SUMMARY_TAG, kind, content))

        self.submit(write)

    def flush(self) -> None:
        """Waits until the operating system has all events."""
        with writing_to(self._logdir, Exception):
            self._pool.join()

    def close(self) -> None:
        """Flushes and closes the event files."""
        self.submit(lambda: [writer.close() for writer in self._writers.values()])
        self.flush()


def create_summary(tag: str, metadata: Any, content: bytes) -> Mapping[str, Any]:
    """Returns the fields of a `Summary` of one value; `metadata` says what the bytes are."""
    tensor = {"dtype": "DT_STRING", "tensor_shape": {}, "string_val": [content]}
    return {"value": [{"tag": tag, "metadata": metadata, "tensor": tensor}]}


def write_once(logdir: str | Path, summary: Any) -> None:
    """Writes a summary to a file of its own.

    TensorBoard reads the files of a folder in the order of their names, and never returns to
    an earlier one. So this name sorts before those of the files that still grow.
    """
    with contextlib.closing(EventFile(logdir, "0.")) as file:
        file.write(step=0, summary=summary)


_importing = threading.Lock()


@functools.cache
def import_summary_writer() -> Any:
    """Returns clu's `SummaryWriter`, which here needs no TensorFlow.

    Imports clu and TensorBoard anew; nobody else gets these modules, or the stand-in.
    """

    def pop() -> dict[str, types.ModuleType]:
        pattern = re.compile(r"(clu|tensorboard)\b|tensorflow$")
        return {name: sys.modules.pop(name) for name in filter(pattern.match, [*sys.modules])}

    with _importing:
        others = pop()
        try:
            sys.modules["tensorflow"] = _create_stand_in()
            from clu.metric_writers import SummaryWriter
        finally:
            pop()
            sys.modules.update(others)
    return SummaryWriter


_active_files: list["EventFile"] = []


class EventFile:
    """An event file; implements the stand-in's `create_file_writer`."""

    def __init__(self, logdir: str | Path, prefix: str = ""):
        """Creates no file before the first event; in its name, the time follows the prefix."""
        self._logdir, self._prefix = Path(logdir), prefix
        self._file: Any = None

    @contextlib.contextmanager
    def as_default(self) -> Iterator[None]:
        """Makes the functions of `tf.summary` write here."""
        _active_files.append(self)
        yield
        _active_files.pop()

    def write(self, **event: Any) -> None:
        """Writes an event with some fields, such as `step` and `summary`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            self._logdir.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files in the order of their names: that of their creation.
            creator = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            name = f"events.out.tfevents.{self._prefix}{creator}.v2"
            self._file = (self._logdir / name).open("xb")
            self.write(file_version="brain.Event:2")
        event_bytes = Event(wall_time=time.time(), **event).SerializeToString()
        RecordWriter(self._file).write(event_bytes)
        self._file.flush()  # For TensorBoard, which may be looking.

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()


def _create_stand_in() -> Any:
    """Returns a `tensorflow` with what clu's `SummaryWriter` calls here."""
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.util.tensor_util import make_tensor_proto

    def writes(create: Callable[..., Any]) -> Callable[..., None]:
        def write(*arguments: Any, step: int, **named: Any) -> None:
            _active_files[-1].write(summary=create(*arguments, **named), step=step)

        return write

    tensorflow: Any = types.ModuleType("tensorflow")
    tensorflow.summary = types.SimpleNamespace(
        create_file_writer=EventFile,
        scalar=writes(scalar_pb),
        text=writes(text_pb),
        histogram=writes(histogram_pb),
    )
    # What TensorBoard's HParams plugin uses when it is imported.
    tensorflow.make_tensor_proto = make_tensor_proto
    tensorflow.keras = types.SimpleNamespace(callbacks=types.SimpleNamespace(Callback=object))
    tensorflow.compat = types.SimpleNamespace(v2=tensorflow)
    return tensorflow

"""TensorBoard's event files, written by clu in a thread and without TensorFlow.

clu's `SummaryWriter` calls `tf.summary`. Importing TensorFlow for it would cost 2 s and
600 MB, while TensorBoard itself contains the formats. So while clu is imported, a stand-in
for `tf.summary` is in `sys.modules`. Where TensorFlow is loaded already, clu uses that.
"""

import collections
import contextlib
import itertools
import os
import socket
import struct
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mnist_jax.reporting import event_files
from mnist_jax.runtime.errors import writing_to


class EventWriter:
    """Calls a `clu.metric_writers.SummaryWriter` in a thread, in order."""

    def __init__(self, logdir: Path):
        """Starts the import of clu; the first event creates a file in `logdir`."""
        self._logdir = logdir
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event_writer")
        self._writer = self._thread.submit(create_summary_writer, str(logdir))
        self._calls: collections.deque[Future[None]] = collections.deque()

    def call(self, method: str, *arguments: Any) -> None:
        """Calls a method of the `SummaryWriter`; returns at once.

        Raises:
          WriteError: An earlier call failed.
        """
        self.submit(lambda: getattr(self._writer.result(), method)(*arguments))

    def submit(self, function: Callable[[], None]) -> None:
        """Calls a function in the thread; see `call`."""
        self._raise_errors(wait=False)
        self._calls.append(self._thread.submit(function))

    def flush(self) -> None:
        """Waits until the operating system has all events.

        Raises:
          WriteError: A call failed.
        """
        self.call("flush")
        self._raise_errors(wait=True)

    def close(self) -> None:
        """Flushes and closes the event file; see `flush`."""
        try:
            self.call("close")
            self._raise_errors(wait=True)
        finally:
            self._thread.shutdown()

    def _raise_errors(self, *, wait: bool) -> None:
        with writing_to(self._logdir, Exception):
            while self._calls and (wait or self._calls[0].done()):
                self._calls.popleft().result()


def create_summary_writer(logdir: str) -> Any:
    """Imports clu and returns a `clu.metric_writers.SummaryWriter`."""
    with contextlib.ExitStack() as stack:
        if "tensorflow" not in sys.modules:
            sys.modules["tensorflow"] = _create_stand_in()
            stack.callback(sys.modules.pop, "tensorflow")
        import tensorboard.compat
        from clu.metric_writers import SummaryWriter

        # TensorBoard imports TensorFlow at its first use: here it gets the stand-in.
        _ = tensorboard.compat.tf2.summary
    return SummaryWriter(logdir)


def write_images(writer: Any, step: int, images: Mapping[str, bytes]) -> None:
    """Writes PNGs by their tags; `SummaryWriter.write_images` would encode pixels anew."""
    from tensorboard.plugins.image import metadata

    values = {}
    for tag, png in images.items():
        width, height = struct.unpack(">II", png[16:24])  # In PNG's first chunk, the header.
        values[tag] = [str(width).encode(), str(height).encode(), png]
    kind = metadata.create_summary_metadata(display_name=None, description=None)
    writer.write_summaries(step, values, dict.fromkeys(images, kind))


_file_numbers = itertools.count()
_active_writers: list["_FileWriter"] = []


class _FileWriter:
    """What `tf.summary.create_file_writer` returns; creates the file with the first event."""

    def __init__(self, logdir: str):
        self._logdir = Path(logdir)
        self._file: Any = None

    @contextlib.contextmanager
    def as_default(self) -> Iterator[None]:
        _active_writers.append(self)
        yield
        _active_writers.pop()

    def write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._file is None:
            self._logdir.mkdir(parents=True, exist_ok=True)
            place = f"{socket.gethostname()}.{os.getpid()}.{next(_file_numbers)}"
            name = f"events.out.tfevents.{int(time.time())}.{place}.v2"
            self._file = (self._logdir / name).open("xb")
            self.write(file_version="brain.Event:2")
        data = Event(wall_time=time.time(), **event).SerializeToString()
        self._file.write(event_files.record(data))

    def flush(self) -> None:
        if self._file:
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


def _create_stand_in() -> types.ModuleType:
    """Returns a `tensorflow` with the functions that clu's `SummaryWriter` calls."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.util.tensor_util import make_tensor_proto

    def writes(create: Callable[..., Any]) -> Callable[..., None]:
        def write(*arguments: Any, step: int, **named: Any) -> None:
            _active_writers[-1].write(summary=create(*arguments, **named), step=step)

        return write

    def summary_of_tensor(tag: str, tensor: Any, metadata: Any) -> Summary:
        value = Summary.Value(tag=tag, tensor=make_tensor_proto(tensor), metadata=metadata)
        return Summary(value=[value])

    tensorflow: Any = types.ModuleType("tensorflow")
    tensorflow.summary = types.SimpleNamespace(
        create_file_writer=_FileWriter,
        scalar=writes(scalar_pb),
        text=writes(text_pb),
        histogram=writes(histogram_pb),
        write=writes(summary_of_tensor),
        experimental=types.SimpleNamespace(
            write_raw_pb=writes(Summary.FromString), summary_scope=contextlib.nullcontext
        ),
    )
    # Used by TensorBoard's HParams plugin, when it is imported and when it writes.
    tensorflow.make_tensor_proto = make_tensor_proto
    tensorflow.keras = types.SimpleNamespace(callbacks=types.SimpleNamespace(Callback=object))
    tensorflow.compat = types.SimpleNamespace(v2=tensorflow)
    return tensorflow

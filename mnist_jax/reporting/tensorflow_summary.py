"""Stands in TensorFlow's place for clu's `SummaryWriter`: `tf.summary` without TensorFlow.

To write a megabyte of events, TensorFlow's import takes 2 s of a core and 600 MB. TensorBoard
brings the format itself, and such a stand-in of its own to read it where TensorFlow is not
installed (`tensorboard.compat.tensorflow_stub`). This is one to write it: what clu's writer
calls for scalars, texts, histograms, hparams and summaries given as tensors. Only the process
of `event_process`, which does nothing else, has it in TensorFlow's place.
"""

import contextlib
import itertools
import os
import socket
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from mnist_jax.reporting import event_files

_numbers = itertools.count()


class FileWriter:
    """An event file; `tf.summary.create_file_writer` returns one."""

    def __init__(self, logdir: str):
        """Creates the folder, and the file in it under a name that no other has."""
        Path(logdir).mkdir(parents=True, exist_ok=True)
        place = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = (Path(logdir) / f"events.out.tfevents.{place}.v2").open("xb")
        self._write(Event(file_version="brain.Event:2"))

    @contextlib.contextmanager
    def as_default(self) -> Iterator[None]:
        """Has the functions of this module write here, within a `with`."""
        _writers.append(self)
        try:
            yield
        finally:
            _writers.pop()

    def add(self, summary: Summary, step: int) -> None:
        """Writes a summary, perhaps not at once."""
        self._write(Event(summary=summary, step=step))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write(event_files.record(event.SerializeToString()))

    def flush(self) -> None:
        """Has the operating system take all that was written."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()


_writers: list[FileWriter] = []


def scalar(name: str, data: Any, step: int) -> None:
    """`tf.summary.scalar`."""
    _writers[-1].add(scalar_pb(name, data), step)


def text(name: str, data: str, step: int) -> None:
    """`tf.summary.text`."""
    _writers[-1].add(text_pb(name, data), step)


def histogram(name: str, data: np.ndarray, step: int, buckets: int | None = None) -> None:
    """`tf.summary.histogram`."""
    _writers[-1].add(histogram_pb(name, data, buckets), step)


def write(tag: str, tensor: Any, step: int, metadata: SummaryMetadata | None = None) -> None:
    """`tf.summary.write`."""
    value = Summary.Value(tag=tag, tensor=make_tensor_proto(tensor), metadata=metadata)
    _writers[-1].add(Summary(value=[value]), step)


def write_raw_pb(serialized: bytes, step: int) -> None:
    """`tf.summary.experimental.write_raw_pb`."""
    _writers[-1].add(Summary.FromString(serialized), step)


def replace_imports() -> None:
    """Has this process import the functions above for TensorFlow, and NumPy for `jax.numpy`.

    Of `jax.numpy` clu's writers name types, for half a second of a core.
    """
    jax: Any = types.ModuleType("jax")
    jax.numpy = np
    sys.modules.update({"jax": jax, "jax.numpy": np})
    tensorflow: Any = types.ModuleType("tensorflow")
    tensorflow.summary = types.SimpleNamespace(
        create_file_writer=FileWriter,
        scalar=scalar,
        text=text,
        histogram=histogram,
        write=write,
        experimental=types.SimpleNamespace(
            write_raw_pb=write_raw_pb, summary_scope=contextlib.nullcontext
        ),
    )
    # What TensorBoard's hparams modules, when imported, prepare for others than us.
    tensorflow.make_tensor_proto = make_tensor_proto
    tensorflow.keras = types.SimpleNamespace(callbacks=types.SimpleNamespace(Callback=object))
    tensorflow.compat = types.SimpleNamespace(v2=tensorflow)
    sys.modules["tensorflow"] = tensorflow

"""The event files are those that clu writes with TensorFlow, written without it."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from mnist_jax.reporting.tensorboard import EventFile, EventWriter, import_summary_writer
from mnist_jax.runtime.errors import WriteError
from tests.conftest import ROOT
from tests.faults import processes

CONFIG = processes.SHORT_RUN | {"num_train_steps": 40}


def test_a_run_needs_no_tensorflow(tmp_path):
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    # A package of that name that can't be imported, in every process of the run.
    (tmp_path / "tensorflow.py").write_text("raise ImportError('there is no TensorFlow')")
    ended = processes.run(
        processes.train_command(tmp_path / "run", CONFIG), env={"PYTHONPATH": path}
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    steps = {step for tag, step, _ in processes.remains(tmp_path / "run").points}
    assert steps == {0, 10, 20, 30, 40}


WITH_TENSORFLOW = """
import sys
from clu.metric_writers import SummaryWriter
from tests.reporting.test_tensorboard import write
writer = SummaryWriter(sys.argv[1])
write(writer)
writer.close()
"""


def write(writer):
    rng = np.random.default_rng(0)
    writer.write_texts(0, {"text": "| a | `b` |\n|---|---|\nümlaut"})
    writer.write_scalars(1, {"float": 0.1, "int": 7, "numpy": np.float32(1e-30)})
    writer.write_scalars(2, {"inf": np.inf, "nan": np.nan, "one": np.array(1)})
    arrays = {
        "normal": rng.normal(size=(784, 128)).astype(np.float32),
        "one value": np.full(5, 0.1, np.float32),
        "empty": np.zeros((0, 3)),
        "integers": np.arange(100),
        "edges": np.linspace(-1, 1, 31),
    }
    writer.write_histograms(3, arrays)


def events(logdir):
    (path,) = logdir.glob("events.out.tfevents.*")
    for event in EventFileLoader(str(path)).Load():
        event.ClearField("wall_time")
        arrays = []
        for value in event.summary.value:
            arrays.append(make_ndarray(value.tensor))
            value.ClearField("tensor")  # Numbers in a list or as bytes: both are read.
        event.ClearField("source_metadata")
        yield event, arrays


def test_the_events_are_those_that_clus_writer_writes_with_tensorflow(tmp_path):
    command = [sys.executable, "-c", WITH_TENSORFLOW, str(tmp_path / "with")]
    subprocess.run(command, check=True, capture_output=True)
    write(writer := import_summary_writer()(str(tmp_path / "without")))
    writer.close()
    for ours, theirs in zip(
        events(tmp_path / "without"), events(tmp_path / "with"), strict=True
    ):
        assert ours[0] == theirs[0]
        for our_array, their_array in zip(ours[1], theirs[1], strict=True):
            assert our_array.dtype == their_array.dtype
            np.testing.assert_array_equal(our_array, their_array)


OURS = """
from mnist_jax.reporting.tensorboard import import_summary_writer
writer = import_summary_writer()(f"{folder}/ours")
writer.write_scalars(1, {"x": 1.0})
writer.close()
"""
# What a user does with TensorFlow, each of which a stand-in would fail.
THEIRS = """
import numpy as np, tensorflow as tf
from clu import metric_writers
from flax.metrics import tensorboard
from tensorboard.plugins.hparams import api as hparams
with tf.summary.create_file_writer(folder).as_default():
    tf.summary.scalar("x", tf.constant(7), step=1)
model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
model.compile("sgd", "mse")
callbacks = [tf.keras.callbacks.TensorBoard(folder), hparams.KerasCallback(folder, {"a": 1})]
model.fit(np.zeros((4, 2)), np.zeros((4, 1)), callbacks=callbacks)
metric_writers.SummaryWriter(folder).write_images(1, {"x": np.zeros((1, 4, 4, 1))})
tensorboard.SummaryWriter(folder).image("x", np.zeros((4, 4, 3)), 1)
"""


@pytest.mark.parametrize("programs", [OURS + THEIRS, THEIRS + OURS])
def test_what_a_user_does_with_tensorflow_never_meets_the_stand_in(tmp_path, programs):
    program = f"folder = {str(tmp_path)!r}\n{programs}"
    ended = processes.run([sys.executable, "-c", program])
    assert ended.returncode == 0, ended.stderr
    (path,) = (tmp_path / "ours").iterdir()
    assert [event.step for event in EventFileLoader(str(path)).Load()][:2] == [0, 1]


def test_an_error_of_the_thread_is_raised_by_a_later_call(tmp_path):
    writer = EventWriter(tmp_path)
    writer.call("write_texts", 0, {"text": 3})
    with pytest.raises(WriteError, match=re.escape(f"{tmp_path}: can't be written to")):
        writer.flush()
    writer.close()


def test_the_files_of_a_second_sort_in_the_order_of_their_creation(tmp_path):
    """TensorBoard reads them in the order of their names."""
    created = []
    for step in range(100):
        file = EventFile(str(tmp_path))
        file.write(step=step)
        file.close()
        created += sorted(set(tmp_path.iterdir()) - set(created))
    assert created == sorted(created)

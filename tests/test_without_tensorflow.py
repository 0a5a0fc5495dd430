"""TensorFlow is needed to read datasets, once; not to train, nor to write events."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from mnist_jax.reporting.event_writer import EventWriter
from tests.conftest import ROOT
from tests.faults import processes
from tests.workdirs import journal

# As on a machine that lacks all three.
WITHOUT_TENSORBOARD = """
import runpy, sys
sys.modules.update(tensorflow=None, tensorflow_datasets=None, tensorboard=None)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CONFIG = processes.SHORT_RUN | {"num_train_steps": 40}


def run_without_tensorboard(workdir):
    python, *arguments = processes.train_command(workdir, CONFIG)
    return processes.run([python, "-c", WITHOUT_TENSORBOARD, *arguments])


def test_without_it_the_event_files_are_written(tmp_path):
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    # In every process of the run: a package of that name that can't be imported.
    (tmp_path / "tensorflow.py").write_text("raise ImportError('there is no TensorFlow')")
    ended = processes.run(
        processes.train_command(tmp_path / "run", CONFIG), env={"PYTHONPATH": path}
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    steps = {step for tag, step, _ in processes.remains(tmp_path / "run").points}
    assert steps == {0, 10, 20, 30, 40}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("without") / "run"
    ended = run_without_tensorboard(workdir)
    assert ended.returncode == 0
    assert ended.stderr == (
        "WARNING: TensorBoard is not installed, so there will be no event files; "
        "metrics.jsonl has every number\n"
    )
    return workdir


class TestWithoutTensorBoardToo:
    def test_it_trains_evaluates_and_saves(self, workdir):
        assert [line["step"] for line in journal(workdir)] == [10, 20, 20, 30, 40, 40]
        assert processes.newest(workdir) == [40]
        assert not list(workdir.glob("events.*"))

    def test_a_complete_run_stays_complete(self, workdir):
        ended = run_without_tensorboard(workdir)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "complete at step 40; nothing to train" in ended.stdout

    def test_with_it_the_event_files_are_written_from_the_journal(self, workdir):
        assert processes.run(processes.train_command(workdir, CONFIG)).returncode == 0
        points = processes.remains(workdir).points
        assert {step for tag, step, _ in points if tag == "train/loss"} == {10, 20, 30, 40}


WITH_TENSORFLOW = """
import sys
from clu.metric_writers import SummaryWriter
from tests.test_without_tensorflow import write
writer = SummaryWriter(sys.argv[1])
write(writer)
writer.close()
"""


def write(writer):
    rng = np.random.default_rng(0)
    writer.write_hparams({"rate": 0.1, "sizes": (128, 32), "name": "sgd", "on": True, "n": 3})
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
    writer.flush(**({"wait": True} if isinstance(writer, EventWriter) else {}))


def events(logdir):
    (path,) = logdir.glob("events.out.tfevents.*")
    for event in EventFileLoader(str(path)).Load():
        event.ClearField("wall_time")
        arrays = []
        for value in event.summary.value:
            arrays.append(make_ndarray(value.tensor))
            value.ClearField("tensor")  # Numbers in a list or as bytes: both are read.
            # The hparams' row has the time in it, as a float64.
            if value.metadata.plugin_data.plugin_name == "hparams":
                value.metadata.plugin_data.ClearField("content")
        event.ClearField("source_metadata")
        yield event, arrays


def test_the_events_are_those_that_clus_writer_writes_with_tensorflow(tmp_path):
    command = [sys.executable, "-c", WITH_TENSORFLOW, str(tmp_path / "with")]
    subprocess.run(command, check=True, capture_output=True)
    writer = EventWriter(tmp_path / "without")
    write(writer)
    writer.close()
    for ours, theirs in zip(
        events(tmp_path / "without"), events(tmp_path / "with"), strict=True
    ):
        assert ours[0] == theirs[0]
        for our_array, their_array in zip(ours[1], theirs[1], strict=True):
            assert our_array.dtype == their_array.dtype
            np.testing.assert_array_equal(our_array, their_array)

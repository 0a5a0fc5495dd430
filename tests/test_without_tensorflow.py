"""The trainer trains where there is no TensorFlow; only TensorBoard has nothing to show."""

import pytest

from tests.faults import processes
from tests.workdirs import journal

# As on a machine that lacks it.
WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules.update(tensorflow=None, tensorflow_datasets=None)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("without") / "run"
    ended = run(workdir)
    assert ended.returncode == 0
    assert ended.stderr == (
        "WARNING: TensorFlow is not installed, so there will be no TensorBoard event files; "
        "metrics.jsonl has every number\n"
    )
    return workdir


def run(workdir):
    python, *arguments = processes.train_command(
        workdir, processes.SHORT_RUN | {"num_train_steps": 40}
    )
    return processes.run([python, "-c", WITHOUT_TENSORFLOW, *arguments])


def test_it_trains_evaluates_and_saves(workdir):
    assert [line["step"] for line in journal(workdir)] == [10, 20, 20, 30, 40, 40]
    assert processes.newest(workdir) == [40]
    assert not list(workdir.glob("events.*"))


def test_a_complete_run_stays_complete(workdir):
    ended = run(workdir)
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "complete at step 40; nothing to train" in ended.stdout


def test_with_tensorflow_the_event_files_are_written_from_the_journal(workdir):
    ended = processes.run(
        processes.train_command(workdir, processes.SHORT_RUN | {"num_train_steps": 40})
    )
    assert ended.returncode == 0
    steps = {step for tag, step, _ in processes.remains(workdir).points if tag == "train/loss"}
    assert steps == {10, 20, 30, 40}

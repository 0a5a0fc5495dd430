"""The process that draws figures ignores signals, ends with its parent and reports errors."""

import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mnist_jax.reporting.figure_worker import FigureWorker
from tests.conftest import ROOT

NAMES = ["calibration", "confusion_matrix", "first_layer", "learning_curves", "mistakes"]

ARGUMENTS = {
    "dataset": "fake",
    "class_names": ["0", "1"],
    "split": "test",
    "journal": [{"step": 10, "test/accuracy": 0.5}],
    "weights": np.ones((2, 28, 28), np.float32),
    "labels": np.zeros(2, np.int32),
    "images": np.zeros((2, 28, 28), np.uint8),
    "logits": np.eye(2, dtype=np.float32),
}

# Without `if __name__ == "__main__"`.
SCRIPT = """
import pickle, sys
from pathlib import Path
from mnist_jax.reporting.figure_worker import FigureWorker

print("imported", flush=True)
worker = FigureWorker(Path(sys.argv[1]))
arguments = pickle.loads(Path(sys.argv[2]).read_bytes())
"""


@pytest.fixture
def worker(tmp_path):
    yield FigureWorker(tmp_path)
    for process in multiprocessing.active_children():  # Left by a test that failed.
        process.kill()


def worker_process() -> multiprocessing.process.BaseProcess:
    (process,) = multiprocessing.active_children()
    return process


def images_in_event_file(workdir: Path) -> dict[tuple[int, str], bytes]:
    """The PNGs by step and tag."""
    (path,) = workdir.glob("events.out.tfevents.*")
    return {
        (event.step, value.tag): value.tensor.string_val[2]
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }


def drawn_steps(workdir: Path) -> list[int]:
    return sorted({step for step, _ in images_in_event_file(workdir)})


def start_script(text: str, workdir: Path) -> "subprocess.Popen[str]":
    script, arguments = workdir / "script.py", workdir / "arguments"
    script.write_text(text)
    arguments.write_bytes(pickle.dumps(ARGUMENTS))
    return subprocess.Popen(
        [sys.executable, script, workdir, arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_figures_are_files_and_images_in_tensorboard(worker, tmp_path):
    worker.draw(step=10, **ARGUMENTS)
    assert worker.close(wait=True) is None
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert sorted(files) == [f"{name}.png" for name in NAMES]
    assert images_in_event_file(tmp_path) == {
        (10, f"figures/{name}"): files[f"{name}.png"] for name in NAMES
    }
    assert not multiprocessing.active_children()


def test_the_newest_request_replaces_those_that_have_not_begun(worker, tmp_path):
    for step in range(1, 21):
        worker.draw(step=step, **ARGUMENTS)
    assert worker.close(wait=True) is None
    steps = drawn_steps(tmp_path)
    assert steps[-1] == 20
    assert len(steps) < 20


def test_signals_to_all_processes_of_a_run_do_not_end_it(worker, tmp_path):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert signum not in mask  # The parent's own are as before.
        os.kill(worker_process().pid, signum)  # While the interpreter starts.
    worker.draw(step=10, **ARGUMENTS)
    assert worker.close(wait=True) is None
    assert drawn_steps(tmp_path) == [10]


def test_close_without_waiting_ends_even_a_stopped_process(worker, tmp_path):
    os.kill(worker_process().pid, signal.SIGSTOP)
    worker.draw(step=10, **ARGUMENTS | {"images": np.zeros((10_000, 28, 28), np.uint8)})
    worker.draw(step=20, **ARGUMENTS)
    worker.close(wait=False)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "figures").exists()


def test_a_signal_ends_the_waiting_for_a_stopped_process(worker):
    os.kill(worker_process().pid, signal.SIGSTOP)
    worker.draw(step=10, **ARGUMENTS)
    asked = iter([None, None, signal.SIGTERM])
    assert "stopped" in worker.close(wait=True, should_stop=lambda: next(asked))
    assert not multiprocessing.active_children()


def test_a_failed_drawing_is_reported_by_close_and_the_next_is_drawn(worker, tmp_path):
    begun = threading.Event()

    class Bad:
        def __reduce__(self):  # When it is sent.
            begun.set()
            return dict, ()

    worker.draw(step=10, **ARGUMENTS | {"labels": Bad()})
    assert begun.wait(60)
    worker.draw(step=20, **ARGUMENTS)
    assert "valid indices" in worker.close(wait=True)
    assert drawn_steps(tmp_path) == [20]


def test_a_file_that_cannot_be_written_is_reported_by_close(worker, tmp_path):
    (tmp_path / "figures").write_bytes(b"not a folder")
    worker.draw(step=10, **ARGUMENTS)
    assert worker.close(wait=True) == "File exists"


def test_a_process_that_was_killed_is_reported_by_close(worker):
    worker_process().kill()
    worker.draw(step=10, **ARGUMENTS)
    assert worker.close(wait=True) == "the process that draws them ended"


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux, to wait for a process")
def test_it_ends_with_a_killed_parent_even_while_it_is_busy(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    script = start_script(
        SCRIPT
        + """
class Blocking:
    def __reduce__(self):
        code = "import time; open({!r}, 'w').close(); time.sleep(3600)"
        return exec, (code.format(sys.argv[1] + "/fifo"),)

import multiprocessing
worker.draw(step=10, **arguments | {"params": Blocking()})
print(multiprocessing.active_children()[0].pid, flush=True)
sys.stdin.read()
""",
        tmp_path,
    )
    assert script.stdout.readline() == "imported\n"
    process = os.pidfd_open(int(script.stdout.readline()))
    (tmp_path / "fifo").read_bytes()  # Until the process has received the request.
    script.kill()
    assert select.select([process], [], [], 60)[0]
    os.close(process)
    assert script.communicate()[1] == ""  # Nor is there a warning about what is left behind.


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    end = "worker.draw(step=10, **arguments)\nworker.close(wait=True)"
    script = start_script(f"{SCRIPT}\n{end}", tmp_path)
    stdout, stderr = script.communicate(timeout=60)
    assert (script.returncode, stdout, stderr) == (0, "imported\n", "")
    assert drawn_steps(tmp_path) == [10]

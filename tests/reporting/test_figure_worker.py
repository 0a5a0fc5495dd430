"""The thread that draws figures reports errors, prints nothing and ends when it should."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mnist_jax.reporting import figure_worker, figures
from mnist_jax.reporting.figure_worker import FigureWorker
from tests.conftest import ROOT
from tests.reporting.test_figures import NAMES, create_evaluation

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

# The classes have names that matplotlib's font lacks.
SCRIPT = """
import sys
from pathlib import Path
from mnist_jax.reporting.figure_worker import FigureWorker
from tests.reporting.test_figure_worker import ARGUMENTS, create_evaluation

worker = FigureWorker(Path(sys.argv[1]))
worker.draw(create_evaluation(step=10, **ARGUMENTS | {"class_names": ["猫", "犬"]}))
worker.close()
"""


@pytest.fixture
def worker(tmp_path):
    worker = FigureWorker(tmp_path)
    yield worker
    worker.close(lambda: True)


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


def test_figures_are_files_and_images_in_tensorboard(worker, tmp_path):
    worker.draw(create_evaluation(step=10, **ARGUMENTS))
    assert worker.close() is None
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert sorted(files) == [f"{name}.png" for name in NAMES]
    assert images_in_event_file(tmp_path) == {
        (10, f"figures/{name}"): files[f"{name}.png"] for name in NAMES
    }


@pytest.mark.parametrize("interval", [0, 10])
def test_the_newest_request_is_drawn_at_the_end(worker, tmp_path, monkeypatch, interval):
    monkeypatch.setattr(figure_worker, "_INTERVAL", interval)
    for step in range(1, 21):
        worker.draw(create_evaluation(step=step, **ARGUMENTS))
    assert worker.close() is None
    steps = drawn_steps(tmp_path)
    assert steps[-1] == 20
    assert len(steps) < (20 if interval == 0 else 2)


@pytest.mark.parametrize("signals", [[15, 15], [None, None, 15]])
def test_a_signal_ends_it_with_the_figure_that_it_draws(worker, monkeypatch, signals):
    def draw_until_told(folder, evaluation, should_stop):
        while not should_stop():
            pass
        return {}, []

    monkeypatch.setattr(figures, "draw", draw_until_told)
    worker.draw(create_evaluation(step=10, **ARGUMENTS))
    worker.draw(create_evaluation(step=20, **ARGUMENTS))
    signals = iter(signals)
    assert worker.close(lambda: next(signals)) == "the run was stopped"


def test_a_failed_drawing_is_reported_by_close_and_the_next_is_drawn(
    worker, tmp_path, monkeypatch
):
    begun = threading.Event()
    monkeypatch.setattr(figure_worker, "_INTERVAL", 0)

    class Bad:
        def max(self, axis):
            begun.set()
            raise TypeError("no numbers")

    worker.draw(create_evaluation(step=10, **ARGUMENTS | {"logits": Bad()}))
    assert begun.wait(60)
    worker.draw(create_evaluation(step=20, **ARGUMENTS))
    assert worker.close().startswith("calibration: no numbers; ")
    assert drawn_steps(tmp_path)[-1] == 20


def test_a_file_that_cannot_be_written_is_reported_by_close(worker, tmp_path):
    (tmp_path / "figures").write_bytes(b"not a folder")
    worker.draw(create_evaluation(step=10, **ARGUMENTS))
    assert worker.close() == "File exists"


def test_it_prints_nothing(tmp_path):
    command = [sys.executable, "-c", SCRIPT, tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert drawn_steps(tmp_path) == [10]

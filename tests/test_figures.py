"""The figures show the numbers they are given, and reach the disk whole."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, BboxTransformTo, IdentityTransform
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_jax.reporting import event_files, figures
from mnist_jax.reporting.figure_worker import NAMES, Drawing
from mnist_jax.reporting.panels import Label
from mnist_jax.runtime.errors import TrainingDivergedError, WriteError
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import ROOT, create_fake_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = create_fake_config()
    config.figures = True
    train_and_evaluate(config, folder)
    return folder


def labels(figure: Figure) -> list[Label]:
    return figure.findobj(Label)


def texts(figure: Figure) -> list[str]:
    return [label.text for label in labels(figure)]


def predictions(num_classes: int = 10, n: int = 500, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, n).astype(np.int32)
    logits = rng.normal(0, 1, (n, num_classes)) + 3 * np.eye(num_classes)[labels]
    return {
        "dataset": "fake",
        "step": 40,
        "labels": labels,
        "log_probabilities": np.asarray(jax.nn.log_softmax(logits)),
        "misread": rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)[
            logits.argmax(1) != labels
        ],
        "kernel": rng.normal(0, 0.05, (784, 16)),
        "journal": [
            {"step": 10, "train/loss": 2.0},
            {"step": 20, "test/accuracy": 0.5, "test/loss": 1.0},
        ],
    }


def test_every_figure_names_dataset_and_step():
    drawn = figures.draw(**predictions())
    assert sorted(drawn) == sorted(NAMES)
    for figure in drawn.values():
        title = next(text for text in texts(figure) if "step 40" in text)
        assert "fake" in title


@pytest.mark.parametrize("num_classes", [10, 47])
def test_confusion_matrix_holds_each_count_in_its_cell(num_classes):
    counts = np.random.default_rng(0).integers(0, 30, (num_classes, num_classes))
    figure = figures.confusion_matrix(counts, "fake, step 1")
    figures.render(figure)
    (picture,) = figure.findobj(lambda artist: hasattr(artist, "pixels"))
    place = Affine2D().scale(1 / num_classes) + BboxTransformTo(picture.get_window_extent())
    written = [[""] * num_classes for _ in counts]
    for label in labels(figure):
        # Where it is seen: from one corner of its cell, it reaches into no other.
        corners = place.inverted().transform(label.get_window_extent())
        (left, right), (bottom, top) = np.sort(corners.T)
        column, row = int(left), int(num_classes - bottom)
        if min(left, bottom) > 0 and max(right, top) < num_classes:
            assert (int(right), int(num_classes - top)) == (column, row)
            written[row][column] += f" {label.text}"
    share = 100 * counts / counts.sum(axis=1, keepdims=True)
    for (row, column), count in np.ndenumerate(counts):
        percent = [f"{share[row, column]:.1f}"] if num_classes <= 10 else []
        expected = [f"{count}", *percent] if count else []
        assert written[row][column].split() == expected


def test_figures_are_legible_at_the_width_that_tensorboard_shows():
    for name, figure in figures.draw(**predictions()).items():
        figures.render(figure)
        scale = 350 / figure.get_window_extent().width
        heights = [
            scale * figure.dpi / 72 * label.size
            for label in labels(figure)
            if label.text and "." not in label.text
        ]
        assert min(heights) >= 9, name


class TestLabel:
    def ink(self, artist: Label | Text) -> np.ndarray:
        """Returns left, bottom, right and top of what is drawn, in pixels."""
        figure = Figure(figsize=(2, 2), dpi=100)
        FigureCanvasAgg(figure)
        figure.add_artist(artist)
        rows, columns = np.nonzero(figures.render(figure).min(axis=2) < 128)
        return np.array([columns.min(), 199 - rows.max(), columns.max() + 1, 200 - rows.min()])

    @pytest.mark.parametrize("rotation", [0, 90])
    @pytest.mark.parametrize("ha", ["left", "center", "right"])
    def test_is_where_matplotlibs_own_text_is(self, ha, rotation):
        text, looks = "true → 179 (9%)", {"ha": ha, "rotation": rotation}
        ours = self.ink(Label(IdentityTransform(), 100, 100, text, 20, **looks))
        looks |= {"va": "baseline", "rotation_mode": "anchor"}  # Align, then turn.
        theirs = self.ink(Text(100, 100, text, size=20, transform=IdentityTransform(), **looks))
        assert np.abs(ours - theirs).max() <= 2

    @pytest.mark.parametrize("va", ["bottom", "center", "top"])
    def test_aligns_its_digits_where_it_says(self, va):
        label = Label(IdentityTransform(), 100, 100, "1", 20, va=va)
        _, bottom, _, top = self.ink(label)
        place = label.get_window_extent()
        assert (place.y0, place.y1) == pytest.approx((bottom, top), abs=1)
        middle = {"bottom": bottom, "center": (bottom + top) / 2, "top": top}[va]
        assert middle == pytest.approx(100, abs=1)


def test_mistakes_are_the_wrong_ones_the_surest_first():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.01, 0.99]])
    labels = np.array([1, 1, 1, 0])
    figure = figures.mistakes(np.zeros((4, 28, 28), np.uint8), labels, probabilities, "")
    shown = [text for text in texts(figure) if "→" in text and "true" not in text]
    assert shown == ["0 → 1 (99%)", "1 → 0 (90%)", "1 → 0 (60%)"]


def test_expected_calibration_error_is_its_formula():
    # Two bins: 0.8 sure and half right; 0.65 sure and all right.
    confidence = np.array([0.75, 0.75, 0.75, 0.75, 0.65])
    is_correct = np.array([True, False, True, False, True])
    ece, count, accuracy, mean = figures.expected_calibration_error(confidence, is_correct)
    assert ece == pytest.approx((4 * 0.25 + 1 * 0.35) / 5)
    assert (count[7], accuracy[7], mean[7]) == (4, 0.5, 0.75)
    assert figures.expected_calibration_error(np.ones(3), np.ones(3, bool))[0] == 0


def test_a_model_without_mistakes_or_journal_can_be_drawn(tmp_path):
    given = predictions()
    given["misread"] = given["misread"][:0]
    given["log_probabilities"] = np.log(np.eye(10)[given["labels"]] * 0.99 + 0.001)
    given["journal"] = []
    figures.save_all(tmp_path, figures.draw(**given))
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(NAMES)


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    figures.save(b"old", tmp_path / "a.png")

    def fail_midway(self, content):
        with self.open("wb") as file:
            file.write(content[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail_midway)
        with pytest.raises(KeyboardInterrupt):
            figures.save(b"new", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"old"
    figures.save(b"new", tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_importing_the_loop_does_not_import_matplotlib():
    code = "import mnist_jax.train_loop, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


class TestDrawing:
    def test_what_cannot_be_written_is_told_in_a_line(self, tmp_path):
        drawing = Drawing(tmp_path / "figures", lambda step, images: None)
        (tmp_path / "figures").rmdir()
        drawing.draw(**predictions())
        with pytest.raises(WriteError, match=r"figures: can't be written to \(No such file"):
            drawing.close()

    def test_a_bug_is_raised_as_it_is(self, tmp_path):
        drawing = Drawing(tmp_path / "figures", lambda step, images: None)
        drawing.draw(**predictions() | {"kernel": None})
        with pytest.raises(AttributeError, match="NoneType"):
            drawing.close()

    def test_close_without_waiting_leaves_no_process(self, tmp_path):
        drawing = Drawing(tmp_path / "figures", lambda step, images: None)
        drawing.draw(**predictions())
        drawing.close(wait=False)
        assert not list((tmp_path / "figures").glob("*.png"))

    def test_the_last_is_drawn_however_many_there_were(self, tmp_path):
        steps = []
        drawing = Drawing(tmp_path / "figures", lambda step, images: steps.append(step))
        for step in range(1, 21):
            drawing.draw(**predictions(n=50) | {"step": step})
        drawing.close()
        assert steps == sorted(set(steps))
        assert steps[-1] == 20
        assert len(steps) < 20


class TestRun:
    def test_has_files_and_tensorboards_images(self, workdir):
        for name in NAMES:
            with Image.open(workdir / "figures" / f"{name}.png") as picture:
                picture.verify()
        assert len(list((workdir / "figures").iterdir())) == len(NAMES)
        events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
        events.Reload()
        assert sorted(events.PluginTagToContent("images")) == [f"figures/{n}" for n in NAMES]
        for name in NAMES:
            point = events.Tensors(f"figures/{name}")[-1]
            assert point.step == 40
            png = (workdir / "figures" / f"{name}.png").read_bytes()
            with Image.open(io.BytesIO(png)) as picture:
                size = [str(length).encode() for length in picture.size]
            assert list(point.tensor_proto.string_val) == [*size, png]

    def test_what_a_killed_attempt_did_not_draw_is_drawn_by_the_next(self, workdir, tmp_path):
        """Killed after its last save, before the event files were written."""
        run = shutil.copytree(workdir, tmp_path / "run")
        for path in [*run.glob("events.*"), *(run / "figures").iterdir()]:
            path.unlink()
        config = create_fake_config()
        config.figures = True
        train_and_evaluate(config, run)
        for name in NAMES:
            drawn = (run / "figures" / f"{name}.png").read_bytes()
            assert drawn == (workdir / "figures" / f"{name}.png").read_bytes()
            assert (f"figures/{name}", 40) in event_files.points(run)
        # And going on from a checkpoint whose figures are lacking.
        for path in run.glob("events.*"):
            path.unlink()
        config.num_train_steps = 60
        train_and_evaluate(config, run)
        steps = {step for tag, step in event_files.points(run) if tag == "figures/mistakes"}
        assert steps == {40, 60}

    def test_evaluate_draws_the_same_from_the_checkpoint(self, workdir, tmp_path):
        command = [sys.executable, "-m", "mnist_jax.evaluate", "--workdir", workdir, "--json"]
        result = subprocess.run(
            [*command, "--figures", tmp_path / "new" / "folder"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, "")
        json.loads(result.stdout)
        for name in NAMES:
            drawn = (tmp_path / "new" / "folder" / f"{name}.png").read_bytes()
            assert drawn == (workdir / "figures" / f"{name}.png").read_bytes()

    def test_that_diverges_says_so_and_nothing_else(self, tmp_path):
        config = create_fake_config()
        config.update(figures=True, learning_rate=1e30)
        with pytest.raises(TrainingDivergedError):
            train_and_evaluate(config, tmp_path)

    def test_without_them_makes_none(self, tmp_path):
        config = create_fake_config()
        train_and_evaluate(config, tmp_path)
        assert not (tmp_path / "figures").exists()

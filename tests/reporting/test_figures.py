"""The figures show the numbers they are given, legibly, and reach the disk whole."""

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import matplotlib.style
import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.reporting import figures
from mnist_jax.reporting.figure_worker import Evaluation
from tests.conftest import ROOT

NAMES = ["calibration", "confusion_matrix", "first_layer", "learning_curves", "mistakes"]


def create_arguments(num_classes: int = 10, num_units: int = 16) -> dict:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 2000).astype(np.int32)
    logits = rng.normal(0, 1, (2000, num_classes)) + 3 * np.eye(num_classes)[labels]
    journal = [{"step": step, "batch/loss": 200 / step} for step in range(100, 100_001, 100)]
    for step in range(5000, 100_001, 5000):
        accuracy = 0.9875 - 100 / step
        journal.append(
            {"step": step, "train/loss": 0.1, "train/accuracy": accuracy + 0.01}
            | {"validation/loss": 0.2, "validation/accuracy": accuracy}
            | {"test/loss": 0.3, "test/accuracy": accuracy - 0.01}
        )
    return {
        "dataset": "fake",
        "class_names": [str(label) for label in range(num_classes)],
        "split": "validation",
        "step": 100_000,
        "journal": journal,
        "weights": rng.normal(0, 0.05, (num_units, 28, 28)),
        "labels": labels,
        "images": rng.integers(0, 256, (2000, 28, 28)).astype(np.uint8),
        "logits": logits.astype(np.float32),
    }


def create_evaluation(
    dataset,
    class_names,
    images,
    labels,
    logits,
    weights,
    *,
    names=NAMES,
    metric="accuracy",
    **others,
) -> Evaluation:
    return Evaluation(
        task=types.SimpleNamespace(figures=names, best=(metric, "max")),
        dataset=Dataset(
            dataset,
            tuple(class_names),
            Split(images.view(), labels.view()),
            {others["split"]: len(labels)},
            digest="any",
        ),
        outputs=logits,
        weights=None if weights is None else lambda: weights,
        **others,
    )


def draw(**arguments) -> dict[str, Figure]:
    data = create_evaluation(**arguments)
    drawn = {name: create(data) for name, create in figures.FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure}


def tick_labels(axis: Axis, *, visible: bool = True) -> list[Text]:
    """Those within the limits of the axis, or those beyond, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = axis.get_major_ticks()
    return [tick.label1 for tick in ticks if (low <= tick.get_loc() <= high) == visible]


def visible_texts(figure: Figure) -> list[Text]:
    figure.draw_without_rendering()
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    hidden = {label for axis in axes for label in tick_labels(axis, visible=False)}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def cells(figure: Figure, num_classes: int) -> dict[tuple[int, int], list[str]]:
    """The texts that lie within the cell of a row and a column, and in no other."""
    (axes,) = figure.axes
    figure.draw_without_rendering()
    written: dict[tuple[int, int], list[str]] = {}
    for text in axes.texts:
        corners = axes.transData.inverted().transform(text.get_window_extent()) + 0.5
        (left, top), (right, bottom) = np.floor(corners).astype(int)
        assert (left, top) == (right, bottom)
        written.setdefault((top, left), []).append(text.get_text())
    return written


def test_every_figure_names_dataset_and_step_and_those_of_a_split_its_name():
    drawn = draw(**create_arguments())
    assert sorted(drawn) == NAMES
    titles = {name: figure.get_suptitle().split("\n")[0] for name, figure in drawn.items()}
    assert titles == {
        "calibration": "fake, validation, step 100000",
        "confusion_matrix": "fake, validation, step 100000",
        "first_layer": "fake, step 100000",
        "learning_curves": "fake, to step 100000",
        "mistakes": "fake, validation, step 100000",
    }


@pytest.mark.parametrize("num_classes", [10, 47])
def test_confusion_matrix_holds_each_count_in_its_cell(num_classes):
    counts = np.random.default_rng(0).integers(0, 30, (num_classes, num_classes))
    labels, predicted = np.repeat(np.argwhere(counts >= 0), counts.ravel(), axis=0).T
    arguments = create_arguments(num_classes)
    arguments |= {"labels": labels, "logits": np.eye(num_classes)[predicted]}
    figure = draw(**arguments)["confusion_matrix"]
    share = counts / counts.sum(axis=1, keepdims=True)
    expected = {place: [f"{count}"] for place, count in np.ndenumerate(counts) if count}
    assert cells(figure, num_classes) == expected
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.sqrt(share))


def test_confusion_matrix_counts_what_each_class_was_predicted_as():
    arguments = create_arguments()
    written = cells(draw(**arguments)["confusion_matrix"], 10)
    predicted = arguments["logits"].argmax(axis=1)
    for true_class, predicted_class in np.ndindex(10, 10):
        count = ((arguments["labels"] == true_class) & (predicted == predicted_class)).sum()
        first, *_ = written.get((true_class, predicted_class), ["0"])
        assert first == f"{count}"


@pytest.mark.parametrize("num_units", [10, 128, 500])
def test_texts_are_legible_at_the_width_that_tensorboard_shows(num_units):
    for name, figure in draw(**create_arguments(num_units=num_units)).items():
        assert figure.get_figwidth() == 3.5  # 350 pixels at 100 dpi.
        for text in visible_texts(figure):
            assert text.get_fontsize() >= 6.5, (name, text)
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, (name, text)
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, (name, text)


def test_mistakes_are_sorted_by_confidence():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.01, 0.99]])
    images = np.arange(1, 5, dtype=np.uint8).repeat(28 * 28).reshape(4, 28, 28)
    arguments = create_arguments(2) | {"images": images, "labels": np.array([1, 1, 1, 0])}
    figure = draw(**arguments | {"logits": np.log(probabilities)})["mistakes"]
    (axes,) = figure.axes
    captions = [text.get_text() for text in axes.texts]
    assert captions == ["0 → 1 (99%)", "1 → 0 (90%)", "1 → 0 (60%)"]
    assert [image.get_array().max() for image in axes.images] == [4, 1, 3]
    for text, image in zip(axes.texts, axes.images, strict=True):
        (x, y), (left, right, _, top) = text.get_position(), image.get_extent()
        assert x == pytest.approx((left + right) / 2)
        assert 0 < top - y < 0.1  # Inches: the image is below its caption.


@pytest.mark.parametrize("image_shape", [(8, 8), (20, 60, 3), (64, 64, 3)])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_long_class_names_and_images_of_any_shape(image_shape, num_classes):
    names = [f"$a_{i}^2$ class\nwith a long name" for i in range(num_classes)]
    arguments = create_arguments(num_classes) | {"class_names": names}
    arguments["images"] = np.zeros((2000, *image_shape), np.uint8)
    arguments["weights"] = np.ones((144, *image_shape[:2]))
    arguments["dataset"] = "/a/folder/of/mine.npz"
    drawn = draw(**arguments)
    for name, figure in drawn.items():
        assert figure.get_suptitle().startswith("mine.npz, ")
        for text in visible_texts(figure):
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, (name, text)
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, (name, text)
    (axes,) = drawn["confusion_matrix"].axes
    for axis in (axes.xaxis, axes.yaxis):
        texts = [label.get_text() for label in tick_labels(axis)]
        assert texts == [f"$a_{i}^2$ cl…" for i in range(num_classes)]
    predicted = arguments["logits"].argmax(axis=1)
    captions = [text.get_text() for text in drawn["mistakes"].axes[0].texts]
    assert len(captions) == 20
    for caption in captions:
        true, wrong, _ = caption.split("\n")
        pairs = zip(arguments["labels"], predicted, strict=True)
        assert (true, wrong) in {(f"$a_{t}^2$ …", f"→ $a_{p}^2$ …") for t, p in pairs}


def test_rc_params_that_a_user_has_set_do_not_prevent_or_turn_the_figures(tmp_path):
    arguments = create_arguments()
    expected = figures.draw(tmp_path / "default", create_evaluation(**arguments))
    user = {"text.usetex": True, "image.origin": "lower", "figure.autolayout": True}
    user |= {"savefig.format": "pdf", "savefig.dpi": 50}
    with matplotlib.rc_context(user):
        assert figures.draw(tmp_path / "user", create_evaluation(**arguments)) == expected
        assert {name: matplotlib.rcParams[name] for name in user} == user


def test_drawing_ends_before_the_next_figure_if_it_should_stop(tmp_path):
    answers = iter([False, False, True])
    pngs, errors = figures.draw(
        tmp_path, create_evaluation(**create_arguments()), lambda: next(answers)
    )
    assert (len(pngs), errors) == (2, [])


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"images": np.zeros((2000, 784), np.float32)}, {"mistakes"}),
        ({"weights": None}, {"first_layer"}),
        ({"class_names": ()}, {"mistakes", "calibration", "confusion_matrix"}),
        (create_arguments(101), {"confusion_matrix"}),
    ],
    ids=["a table", "no weights", "no classes", "many classes"],
)
def test_figures_that_the_data_do_not_suit_are_left_out(tmp_path, changes, left_out):
    arguments = create_arguments() | changes
    pngs, errors = figures.draw(tmp_path, create_evaluation(**arguments))
    assert (set(pngs), errors) == (set(NAMES) - left_out, [])


def test_only_the_figures_of_the_task_are_drawn(tmp_path):
    names = ["mistakes", "first_layer"]
    pngs, errors = figures.draw(tmp_path, create_evaluation(**create_arguments(), names=names))
    assert (list(pngs), errors) == (names, [])


def test_learning_curves_show_the_metric_that_is_named():
    journal = [{"step": 1000, "test/loss": 4.0, "test/mean_absolute_error": 2.0}]
    arguments = create_arguments() | {"journal": journal, "class_names": ()}
    figure = draw(**arguments, metric="mean_absolute_error")["learning_curves"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "mean_absolute_error"]
    assert figure.axes[1].get_legend().texts[-1].get_text() == "test 2.0000"


def test_images_of_numbers_are_drawn_from_their_lowest_to_their_highest():
    arguments = create_arguments()
    images = arguments["images"].astype(np.float32) / 255 * 4 - 2
    images[:, 0, :2] = [-2, 2]
    arguments["images"][:, 0, :2] = [0, 255]
    drawn = draw(**arguments | {"images": images})["mistakes"].axes[0].images
    expected = draw(**arguments)["mistakes"].axes[0].images
    for ours, theirs in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(ours.get_array().astype(int), theirs.get_array(), atol=1)


def test_an_output_that_is_no_class_is_not_counted_as_another(tmp_path):
    arguments = create_arguments()
    arguments["logits"] = np.pad(arguments["logits"], [(0, 0), (0, 1)], constant_values=99)
    _, errors = figures.draw(tmp_path, create_evaluation(**arguments))
    assert errors[0].startswith("confusion_matrix: index 10 is out of bounds")


def test_captions_are_black_on_white_in_any_style():
    with matplotlib.style.context("dark_background"):
        (axes,) = draw(**create_arguments())["mistakes"].axes
    assert (axes.get_facecolor()[:3], axes.axison) == ((1, 1, 1), True)
    assert {text.get_color() for text in axes.texts} == {"black"}


def test_a_figure_that_fails_does_not_prevent_the_others(tmp_path):
    arguments = create_arguments() | {"images": np.zeros((2000, 0, 0), np.uint8)}
    pngs, (error,) = figures.draw(tmp_path, create_evaluation(**arguments))
    assert error.startswith("mistakes: ")
    assert sorted([*pngs, "mistakes"]) == NAMES
    assert {path.stem for path in tmp_path.iterdir()} == set(pngs)


def test_a_curve_of_few_points_does_not_begin_at_step_0():
    journal = [{"step": 0, "test/loss": 2.3, "validation/loss": 2.3}]
    journal += [{"step": step, "validation/loss": 1.0} for step in range(100, 2001, 100)]
    journal += [{"step": step, "test/loss": 1.0} for step in (1000, 2000)]
    figure = draw(**create_arguments() | {"journal": journal})["learning_curves"]
    lines = {line.get_label().split()[0]: line for line in figure.axes[0].lines}
    assert [*lines["test"].get_xdata()] == [1000, 2000]
    assert [*lines["validation"].get_xdata()][:2] == [0, 100]


def test_learning_curves_have_the_last_values_in_the_legend_of_their_panel():
    journal = [
        {"step": 1000, "batch/loss": 2.0},
        {"step": 1000, "train/loss": 1.5, "train/accuracy": 0.5},
        {"step": 2000, "batch/loss": float("inf")},
        {"step": 2000, "train/loss": 0.5, "train/accuracy": 0.9},
        {"step": 2000, "test/loss": 0.6, "test/accuracy": 0.8},
    ]
    arguments = create_arguments() | {"journal": journal}
    losses, accuracies = draw(**arguments)["learning_curves"].axes
    labels = [[text.get_text() for text in x.get_legend().texts] for x in (losses, accuracies)]
    assert labels == [
        ["training batch 2.0000", "train 0.5000", "validation", "test 0.6000"],
        ["train 0.9000", "validation", "test 0.8000"],
    ]
    curve = next(x for x in accuracies.lines if x.get_label() == "train 0.9000")
    np.testing.assert_array_equal(curve.get_xydata(), [[1000, 0.5], [2000, 0.9]])


def test_ticks_of_the_steps_are_round():
    arguments = create_arguments() | {"journal": [{"step": 2000, "test/accuracy": 0.8}]}
    figure = draw(**arguments)["learning_curves"]
    figure.draw_without_rendering()
    labels = [label.get_text() for label in tick_labels(figure.axes[1].xaxis)]
    assert labels == ["0", "500", "1000", "1500", "2000"]


def test_first_layer_shows_each_unit_from_left_to_right():
    weights = np.random.default_rng(0).normal(size=(7, 28, 28))
    figure = draw(**create_arguments() | {"weights": weights})["first_layer"]
    sheet = figure.axes[0].images[0].get_array()
    for unit in range(7):
        top, left = 29 * (unit // 5), 29 * (unit % 5)
        image = sheet[top : top + 28, left : left + 28]
        np.testing.assert_array_equal(image, weights[unit])


def test_expected_calibration_error_is_its_formula():
    # Four examples at 0.75, half of them correct, and one at 0.65, correct.
    confidence = np.array([0.75, 0.75, 0.75, 0.75, 0.65])
    labels = np.array([0, 1, 0, 1, 0])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    arguments = create_arguments(2) | {"labels": labels, "logits": logits}
    figure = draw(**arguments)["calibration"]
    ece = (4 * (0.75 - 0.5) + 1 * (1 - 0.65)) / 5
    assert figure.get_suptitle().endswith(f"expected calibration error {ece:.4f}")


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_mistakes_have_any_number_of_channels(tmp_path, channels):
    arguments = create_arguments()
    images = arguments["images"][:, :, :, np.newaxis].repeat(channels, axis=3)
    plain = figures.save(tmp_path / "plain.png", draw(**arguments)["mistakes"])
    several = draw(**arguments | {"images": images})["mistakes"]
    assert figures.save(tmp_path / "several.png", several) == plain


def test_a_model_without_mistakes_and_journal_can_be_drawn(tmp_path):
    arguments = create_arguments() | {"journal": []}
    arguments["logits"] = 9 * np.eye(10)[arguments["labels"]]
    drawn = draw(**arguments)
    assert drawn["mistakes"].get_suptitle().endswith("no mistakes")
    for name, figure in drawn.items():
        figures.save(tmp_path / f"{name}.png", figure)


def test_save_returns_the_pngs_that_it_writes(tmp_path):
    folder = tmp_path / "new" / "folder"
    drawn = draw(**create_arguments())
    pngs = {name: figures.save(folder / f"{name}.png", drawn[name]) for name in drawn}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f"{name}.png": pngs[name] for name in NAMES
    }
    for name, figure in drawn.items():
        with Image.open(io.BytesIO(pngs[name])) as picture:
            assert picture.width == 700
            assert picture.height == pytest.approx(200 * figure.get_figheight(), abs=1)


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    old = figures.save(tmp_path / "a.png", Figure((1, 1)))

    def fail(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            figures.save(tmp_path / "a.png", Figure((2, 2)))
    assert (tmp_path / "a.png").read_bytes() == old
    new = figures.save(tmp_path / "a.png", Figure((2, 2)))
    assert (tmp_path / "a.png").read_bytes() == new
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_bytes(b"not ours")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="A link"):
        figures.save(tmp_path / "figures" / "a.png", Figure((1, 1)))
    assert (tmp_path / "other").read_bytes() == b"not ours"
    assert (tmp_path / "figures" / "a.png").is_symlink()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("mnist_jax.train_loop", "matplotlib"),
        ("mnist_jax.reporting.figure_worker", "matplotlib"),
        ("mnist_jax.reporting.figures", "matplotlib.pyplot"),
    ],
)
def test_what_an_import_does_not_import(module, unwanted):
    code = f"import {module}, sys; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_backend_that_does_not_exist_does_not_prevent_the_figures():
    command = [sys.executable, "-c", "import mnist_jax.reporting.figures"]
    subprocess.run(command, env=os.environ | {"MPLBACKEND": "nothing"}, cwd=ROOT, check=True)

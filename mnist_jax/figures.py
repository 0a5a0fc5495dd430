"""Pictures of a run: matplotlib figures as functions of arrays, and how they are written.

`Figure` and its Agg canvas, never pyplot: nothing global, so they may be drawn in any thread.
Colours are matplotlib's Blues and PuOr (https://colorbrewer2.org: colour-blind-safe) and Okabe
and Ito's (https://jfly.uni-koeln.de/color/); lines differ in their style too.

Axes, ticks and texts are what drawing costs; so there are few of each.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#777777"
_SPLITS = {"train": (_GREY, ":"), "validation": (_ORANGE, "--"), "test": (_BLUE, "-")}
_NUM_BINS = 10
_ROWS, _COLUMNS = 4, 5  # Of a sheet of images.

# TensorBoard's Images tab scales a picture to 350 pixels in width. At 100 dots an inch these
# are 3.5 inches, so a font of 8 points looks there as it should; twice the dots keep what is
# smaller legible in the file.
_WIDTH = 3.5
_DPI = 200
_FONT = 8


def _figure(height: float, title: str, *, width: float = _WIDTH) -> Figure:
    """Returns an empty figure of a size in inches, with the title at its top."""
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.05 / height, title, ha="center", va="top", fontsize=_FONT)
    return figure


def _add_axes(
    figure: Figure, left: float, bottom: float, right: float, top: float, **looks: Any
) -> Axes:
    """Adds axes with margins in inches; matplotlib's own layouts draw everything twice."""
    width, height = figure.get_size_inches()
    box = (left, bottom, width - left - right, height - bottom - top)
    axes = figure.add_axes(
        (box[0] / width, box[1] / height, box[2] / width, box[3] / height), **looks
    )
    axes.tick_params(labelsize=_FONT - 1)
    return axes


def confusion_matrix(counts: np.ndarray, title: str) -> Figure:
    """Draws which class was taken for which: the count, and its share of the row as colour.

    Up to ten classes it is written below the count, too.

    Args:
      counts: `int[num_classes, num_classes]`, true class by predicted class.
      title: Names the dataset and the step.
    """
    num_classes = len(counts)
    is_small = num_classes <= 10
    side = max(_WIDTH, 0.19 * num_classes + 0.3)
    what = "count, and percent of the row" if is_small else "count; darker: more of the row"
    figure = _figure(side + 0.38, f"{title}\n{what}", width=side)
    figure.text(0.5, 0.04 / (side + 0.38), "predicted class", ha="center", fontsize=_FONT)
    figure.text(0.04 / side, 0.5, "true class", va="center", rotation=90, fontsize=_FONT)
    axes = _add_axes(figure, 0.36, 0.34, 0.02, 0.38, xticks=[], yticks=[])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root: else the mistakes, which one looks for, would all be one white.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    looks: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
    size = 6.5 if is_small else 3.6
    for row, column in np.argwhere(counts):
        share = shares[row, column]
        looks["color"] = "white" if share > 0.4 else "black"
        place = row - 0.15 if is_small else row
        axes.text(column, place, f"{counts[row, column]}", fontsize=size, **looks)
        if is_small:
            axes.text(column, row + 0.25, f"{100 * share:.1f}", fontsize=4.5, **looks)
    for label in range(num_classes):  # As texts: an axis' tick costs four times as much.
        looks = {"fontsize": size, "parse_math": False}
        axes.text(-0.65, label, f"{label}", ha="right", va="center", **looks)
        axes.text(label, num_classes - 0.4, f"{label}", ha="center", va="top", **looks)
    return figure


def examples(images: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Draws the first images of a split, with their labels.

    Args:
      images: `uint8[n, 28, 28]`.
      labels: `int[n]`.
      title: Names the dataset.
    """
    captions = [str(label) for label in labels[: _ROWS * _COLUMNS]]
    return _sheet(images[: len(captions)], captions, title)


def mistakes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, title: str
) -> Figure:
    """Draws the wrong images that the model was surest of, the surest first.

    Args:
      images: `uint8[n, 28, 28]`, all of the split's or only its wrong ones.
      labels: `int[n]`.
      probabilities: `float[n, num_classes]`.
      title: Names the dataset and the step.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")[: _ROWS * _COLUMNS]]
    captions = [f"{labels[i]} → {predicted[i]} ({confidence[i]:.0%})" for i in chosen]
    what = "most confidently wrong: true → predicted" if len(chosen) else "none is wrong"
    return _sheet(images[chosen], captions, f"{title}\n{what}")


def _sheet(images: np.ndarray, captions: Sequence[str], title: str) -> Figure:
    """Draws images in rows, a caption above each."""
    figure = _figure(_WIDTH * _ROWS / _COLUMNS * (38 / 32) + 0.4, title)
    axes = _add_axes(figure, 0, 0, 0, 0.4)
    # One picture for all of them: an axes each costs five times as much.
    height, width, edge = 28 + 10, 28 + 4, 2
    sheet = np.full((_ROWS * height, _COLUMNS * width), np.nan)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, _COLUMNS)
        top, left = row * height + height - 28 - edge, column * width + edge
        sheet[top : top + 28, left : left + 28] = image
        looks: dict[str, Any] = {"ha": "center", "va": "bottom", "parse_math": False}
        axes.text(left + 13.5, top - 1.5, caption, fontsize=_FONT - 1, **looks)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="none")
    axes.set_axis_off()
    return figure


def first_layer(kernel: np.ndarray, title: str, *, most: int = 144) -> Figure:
    """Draws each unit's weights as an image: what it is switched on (and off) by.

    Args:
      kernel: `float[784, units]`.
      title: Names the dataset and the step.
      most: At most so many of the units, the first.
    """
    units = kernel.T[:most].reshape(-1, 28, 28)
    columns = min(12, max(5, math.ceil(math.sqrt(len(units)))))
    rows = -(-len(units) // columns)
    sheet = np.full((rows * 29, columns * 29), np.nan)
    for place, unit in enumerate(units):
        row, column = divmod(place, columns)
        sheet[row * 29 : row * 29 + 28, column * 29 : column * 29 + 28] = unit
    scale = float(np.percentile(np.abs(kernel), 99.5)) or 1.0
    # The colours' key, in the same picture: a colour bar costs as much as all of the rest.
    key = np.full((round(0.07 * sheet.shape[1]), sheet.shape[1]), np.nan)
    third = sheet.shape[1] // 3
    key[len(key) // 2 :, third : 2 * third] = np.linspace(-scale, scale, third)
    sheet = np.concatenate([sheet, key])
    figure = _figure(
        _WIDTH * sheet.shape[0] / sheet.shape[1] + 0.4,
        f"{title}\nweights of the first layer: {len(units)} of {kernel.shape[1]} units",
    )
    axes = _add_axes(figure, 0, 0.02, 0, 0.38)
    axes.imshow(sheet, cmap="PuOr", vmin=-scale, vmax=scale, interpolation="none")
    axes.set_axis_off()
    middle = sheet.shape[0] - len(key) / 4
    for x, ha, text in (
        (third, "right", f"{-scale:.2g} "),
        (2 * third, "left", f" {scale:.2g}"),
    ):
        axes.text(x, middle, text, ha=ha, va="center", fontsize=_FONT - 1)
    return figure


def learning_curves(journal: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws loss and accuracy of every split over the steps.

    Args:
      journal: The lines of `metrics.jsonl`.
      title: Names the dataset and the step.
    """
    figure = _figure(4.2, title)
    loss_axes = _add_axes(figure, 0.5, 2.25, 0.1, 0.25, xticklabels=[])
    accuracy_axes = _add_axes(figure, 0.5, 0.4, 0.1, 2.05)

    def points(tag: str) -> tuple[list[int], list[float]]:
        lines = [line for line in journal if tag in line]
        return [line["step"] for line in lines], [line[tag] for line in lines]

    loss_axes.plot(*points("train/loss"), color=_GREY, alpha=0.5, lw=1, label="train, a batch")
    for split, (colour, style) in _SPLITS.items():
        looks: dict[str, Any] = {
            "color": colour,
            "ls": style,
            "marker": "o",
            "ms": 3,
            "lw": 1.2,
        }
        loss_tag = "train/eval_loss" if split == "train" else f"{split}/loss"
        loss_axes.plot(*points(loss_tag), **looks)
        steps, accuracies = points(f"{split}/accuracy")
        last = f" {accuracies[-1]:.4f}" if accuracies else ""
        accuracy_axes.plot(steps, accuracies, **looks, label=f"{split}{last}")
    end = max([line["step"] for line in journal], default=1) * 1.03
    loss_axes.set_ylabel("cross-entropy, nats", fontsize=_FONT)
    accuracy_axes.set_xlabel("step", fontsize=_FONT)
    accuracy_axes.set_ylabel("accuracy", fontsize=_FONT)
    loss_axes.set_ylim(bottom=0)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlim(0, end)
        axes.locator_params(nbins=4)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=_FONT - 1, borderpad=0.2)
    return figure


def expected_calibration_error(
    confidence: np.ndarray, is_correct: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Compares confidence with accuracy in ten bins of equal width.

    ECE = sum over bins of n_bin / n * |accuracy - mean confidence| (Naeini, Cooper,
    Hauskrecht 2015; Guo et al. 2017).

    Args:
      confidence: Probability of the predicted class, `float[n]`.
      is_correct: Whether that is the label, `bool[n]`.

    Returns:
      The ECE, and by bin: examples, accuracy, mean confidence (NaN in empty ones).
    """
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    count = np.bincount(bins, minlength=_NUM_BINS)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(bins, is_correct, _NUM_BINS) / count
        mean = np.bincount(bins, confidence, _NUM_BINS) / count
    ece = float(np.nansum(count * np.abs(accuracy - mean)) / max(len(confidence), 1))
    return ece, count, accuracy, mean


def calibration(labels: np.ndarray, probabilities: np.ndarray, title: str) -> Figure:
    """Draws the reliability diagram: is 0.8 right in 80 of 100 cases?

    Args:
      labels: `int[n]`.
      probabilities: `float[n, num_classes]`.
      title: Names the dataset and the step.
    """
    confidence = probabilities.max(axis=1).astype(float)
    is_correct = probabilities.argmax(axis=1) == labels
    ece, count, accuracy, mean = expected_calibration_error(confidence, is_correct)
    figure = _figure(3.9, f"{title}\nexpected calibration error {ece:.4f}")
    ticks = {"xlim": (0, 1), "xticks": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    axes = _add_axes(figure, 0.5, 1.25, 0.1, 0.38, **ticks, xticklabels=[], ylim=(0, 1))
    counts = _add_axes(figure, 0.5, 0.38, 0.1, 2.75, **ticks)
    left = np.arange(_NUM_BINS) / _NUM_BINS
    axes.plot([0, 1], [0, 1], color=_GREY, ls="--", lw=1, label="perfect")
    axes.stairs(
        np.nan_to_num(accuracy),
        np.append(left, 1),
        fill=True,
        color=_BLUE,
        alpha=0.35,
        label="accuracy in the bin",
    )
    axes.plot(mean, accuracy, "o", ms=4, color=_ORANGE, label="at its mean confidence")
    axes.set_ylabel("accuracy", fontsize=_FONT)
    axes.legend(fontsize=_FONT - 1, loc="upper left", borderpad=0.2)
    counts.stairs(count, np.append(left, 1), fill=True, color=_GREY)
    counts.set_ylim(bottom=0)
    counts.locator_params("y", nbins=3)
    counts.set_xlabel("confidence: the predicted class's probability", fontsize=_FONT)
    counts.set_ylabel("examples", fontsize=_FONT)
    return figure


def predictions(
    inputs: Sequence[np.ndarray], digits: Sequence[np.ndarray], titles: Sequence[str]
) -> Figure:
    """Draws each picture beside what the network sees of it.

    Args:
      inputs: `float[height, width, channels]`, 0 to 1.
      digits: `uint8[28, 28]`.
      titles: One for each pair.
    """
    height = 2.5 * len(inputs) + 0.3
    figure = _figure(height, "input, and what the network sees of it", width=4.8)
    rows = figure.subplots(len(inputs), 2, squeeze=False)
    figure.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.45 / height, hspace=0.12)
    for (left, right), picture, digit, title in zip(rows, inputs, digits, titles, strict=True):
        left.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)), interpolation="nearest")
        right.imshow(digit, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        left.set_title(title, fontsize=_FONT - 1, loc="left", parse_math=False, pad=2)
        for axes in (left, right):
            axes.set(xticks=[], yticks=[])
    return figure


def draw(
    dataset: str,
    step: int,
    images: np.ndarray,
    labels: np.ndarray,
    log_probabilities: np.ndarray,
    kernel: np.ndarray,
    journal: Sequence[Mapping[str, Any]],
) -> dict[str, Figure]:
    """Draws all that shows a model at one step.

    Args:
      dataset: Its name.
      step: Completed updates.
      images: The test split's, `uint8[n, 28, 28]`.
      labels: `int32[n]`.
      log_probabilities: `float32[n, num_classes]`.
      kernel: The first layer's, `float32[784, units]`.
      journal: The lines of `metrics.jsonl`.

    Returns:
      The figures by name.
    """
    when, where = f"step {step}", f"{dataset}, test"
    probabilities = np.exp(log_probabilities)
    counts = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return {
        "confusion_matrix": confusion_matrix(counts, f"{where}, {when}"),
        "mistakes": mistakes(images, labels, probabilities, f"{where}, {when}"),
        "calibration": calibration(labels, probabilities, f"{where}, {when}"),
        "first_layer": first_layer(kernel, f"{dataset}, {when}"),
        "learning_curves": learning_curves(journal, f"{dataset}, to {when}"),
    }


def render(figure: Figure) -> np.ndarray:
    """Returns the figure as `uint8[height, width, 3]`."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def encode(pixels: np.ndarray) -> bytes:
    """Returns a PNG of what `render` returns."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def save(png: bytes, path: Path) -> None:
    """Writes a picture whole or not at all: aside, then renamed.

    Args:
      png: See `encode`.
      path: In a folder that exists.

    Raises:
      OSError: It can't be written.
    """
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(png)
    aside.replace(path)


def save_all(folder: Path, figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Writes `<folder>/<name>.png` of each, and returns them."""
    pngs = {name: encode(render(figure)) for name, figure in figures.items()}
    for name, png in pngs.items():
        save(png, folder / f"{name}.png")
    return pngs

"""Pictures of a run: matplotlib figures as functions of arrays, and how they are written.

`Figure` and its Agg canvas, never pyplot: nothing global, so they may be drawn in any thread.
Colours are viridis' and Okabe and Ito's (https://jfly.uni-koeln.de/color/), which differ in
lightness too: colour-blind people, and grey prints, tell them apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
_SPLITS = {"train": (_GREY, ":"), "validation": (_ORANGE, "--"), "test": (_BLUE, "-")}
_NUM_BINS = 10


def _figure(width: float, height: float, title: str) -> Figure:
    """Returns an empty figure; a hundred pixels an inch, as TensorBoard shows it."""
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.07 / height, title, ha="center", va="top", fontsize=11)
    return figure


def _add_axes(
    figure: Figure, left: float, bottom: float, right: float, top: float, **looks: Any
) -> Axes:
    """Adds axes with margins in inches; matplotlib's own layouts draw everything twice."""
    width, height = figure.get_size_inches()
    box = (left, bottom, width - left - right, height - bottom - top)
    return figure.add_axes(
        (box[0] / width, box[1] / height, box[2] / width, box[3] / height), **looks
    )


def confusion_matrix(counts: np.ndarray, title: str) -> Figure:
    """Draws which class was taken for which: the count in a cell, the row's share its colour.

    Args:
      counts: `int[num_classes, num_classes]`, true class by predicted class.
      title: Names the dataset and the step.
    """
    num_classes = len(counts)
    side = max(6.4, 0.36 * num_classes)
    figure = _figure(side, side, f"{title}\ncount; the darker, the larger its share of the row")
    axes = _add_axes(figure, 0.55, 0.5, 0.05, 0.55)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root: else the mistakes, which one looks for, would all be one white.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    fontsize = 9 if num_classes <= 10 else 7
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.4 else "black"
            text = f"{count}"
            if row == column and num_classes <= 10:
                text += f"\n{100 * shares[row, column]:.1f}%"
            axes.text(
                column, row, text, ha="center", va="center", color=colour, fontsize=fontsize
            )
    ticks = np.arange(num_classes)
    axes.set(xticks=ticks, yticks=ticks, xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0, labelsize=fontsize)
    return figure


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    title: str,
    *,
    rows: int = 4,
    columns: int = 6,
) -> Figure:
    """Draws the wrong images that the model was surest of, the surest first.

    Args:
      images: `uint8[n, 28, 28]`, all of the split's or only its wrong ones.
      labels: `int[n]`.
      probabilities: `float[n, num_classes]`.
      title: Names the dataset and the step.
      rows: At most.
      columns: Likewise.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")[: rows * columns]]
    figure = _figure(
        1.1 * columns,
        1.1 * rows + 0.5,
        f"{title}\nmost confidently wrong: true → predicted (probability)",
    )
    axes = _add_axes(figure, 0, 0, 0, 0.5)
    # One picture for all of them: an axes each costs five times as much.
    step = 28 + 12
    sheet = np.full((rows * step, columns * step), np.nan)
    for place, index in enumerate(chosen):
        row, column = divmod(place, columns)
        sheet[row * step + 10 : row * step + 38, column * step + 6 : column * step + 34] = (
            images[index]
        )
        axes.text(
            column * step + 20,
            row * step + 8,
            f"{labels[index]} → {predicted[index]} ({confidence[index]:.0%})",
            ha="center",
            va="bottom",
            fontsize=9,
        )
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="none")
    axes.set_axis_off()
    if not len(chosen):
        axes.text(0.5, 0.5, "none is wrong", ha="center", transform=axes.transAxes)
    return figure


def first_layer(kernel: np.ndarray, title: str, *, most: int = 128) -> Figure:
    """Draws each unit's weights as an image: what it is switched on (and off) by.

    Args:
      kernel: `float[784, units]`.
      title: Names the dataset and the step.
      most: At most so many of the units, the first.
    """
    units = kernel.T[:most].reshape(-1, 28, 28)
    columns = 16 if len(units) > 40 else min(10, len(units))
    rows = -(-len(units) // columns)
    sheet = np.full((rows * 29 - 1, columns * 29 - 1), np.nan)
    for place, unit in enumerate(units):
        row, column = divmod(place, columns)
        sheet[row * 29 : row * 29 + 28, column * 29 : column * 29 + 28] = unit
    scale = float(np.percentile(np.abs(kernel), 99.5)) or 1.0
    what = f"weights of the first layer: {len(units)} of {kernel.shape[1]} units"
    width, height = 0.5 * columns, 0.5 * rows
    figure = _figure(max(width, 4.0) + 1.3, max(height, 2.0) + 0.65, f"{title}\n{what}")
    axes = _add_axes(figure, 0.05, 0.05, 1.25, 0.6)
    drawn = axes.imshow(sheet, cmap="PuOr", vmin=-scale, vmax=scale, interpolation="none")
    axes.set_axis_off()
    side = _add_axes(figure, max(width, 4.0) + 0.15, 0.15, 1.0, 0.7)
    figure.colorbar(drawn, cax=side, extend="both")
    return figure


def learning_curves(journal: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws loss and accuracy of every split over the steps.

    Args:
      journal: The lines of `metrics.jsonl`.
      title: Names the dataset and the step.
    """
    figure = _figure(9.6, 4.2, title)
    loss_axes = _add_axes(figure, 0.6, 0.5, 5.0, 0.35)
    accuracy_axes = _add_axes(figure, 5.4, 0.5, 0.1, 0.35)

    def points(tag: str) -> tuple[list[int], list[float]]:
        lines = [line for line in journal if tag in line]
        return [line["step"] for line in lines], [line[tag] for line in lines]

    loss_axes.plot(*points("train/loss"), color=_GREY, alpha=0.5, lw=1, label="train, a batch")
    for split, (colour, style) in _SPLITS.items():
        looks: dict[str, Any] = {"color": colour, "ls": style, "marker": "o", "ms": 4}
        loss_tag = "train/eval_loss" if split == "train" else f"{split}/loss"
        loss_axes.plot(*points(loss_tag), **looks, label=split)
        steps, accuracies = points(f"{split}/accuracy")
        last = f": {accuracies[-1]:.4f}" if accuracies else ""
        accuracy_axes.plot(steps, accuracies, **looks, label=f"{split}{last}")
    loss_axes.set(xlabel="step", ylabel="cross-entropy, nats")
    loss_axes.set_ylim(bottom=0)
    accuracy_axes.set(xlabel="step", ylabel="accuracy")
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
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
    figure = _figure(5.6, 6.0, f"{title}\nexpected calibration error {ece:.4f}")
    axes = _add_axes(figure, 0.7, 2.0, 0.15, 0.55, xticklabels=[])
    counts = _add_axes(figure, 0.7, 0.5, 0.15, 4.15, xlim=(0, 1))
    left = np.arange(_NUM_BINS) / _NUM_BINS
    axes.plot([0, 1], [0, 1], color=_GREY, ls="--", lw=1, label="perfect")
    axes.bar(
        left,
        np.nan_to_num(accuracy),
        1 / _NUM_BINS,
        align="edge",
        color=_BLUE,
        alpha=0.35,
        edgecolor="white",
        label="accuracy",
    )
    axes.plot(mean, accuracy, "o", color=_ORANGE, label="at the bin's mean confidence")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=9, loc="upper left")
    counts.bar(left, count, 1 / _NUM_BINS, align="edge", color=_GREY, edgecolor="white")
    counts.set(xlabel="confidence (probability of the predicted class)", ylabel="examples")
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
    figure = _figure(5.2, 2.6 * len(inputs) + 0.5, "input, and what the network sees of it")
    rows = figure.subplots(len(inputs), 2, squeeze=False)
    figure.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.6 / figure.get_size_inches()[1])
    for (left, right), picture, digit, title in zip(rows, inputs, digits, titles, strict=True):
        left.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)), interpolation="nearest")
        right.imshow(digit, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        left.set_title(title, fontsize=9, loc="left", parse_math=False)
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


def save(pixels: np.ndarray, path: Path) -> None:
    """Writes a PNG whole or not at all: aside, then renamed.

    Args:
      pixels: See `render`.
      path: In a folder that exists.

    Raises:
      OSError: It can't be written.
    """
    aside = path.with_name(f".{path.name}")
    Image.fromarray(pixels).save(aside, format="PNG", compress_level=1)
    aside.replace(path)


def save_all(folder: Path, figures: Mapping[str, Figure]) -> dict[str, np.ndarray]:
    """Writes `<folder>/<name>.png` of each, and returns their pixels."""
    pixels = {name: render(figure) for name, figure in figures.items()}
    for name, picture in pixels.items():
        save(picture, folder / f"{name}.png")
    return pixels

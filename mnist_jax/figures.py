"""Pictures of a run: matplotlib figures as functions of arrays, and how they are written.

`Figure` and its Agg canvas, never pyplot: nothing global, so they may be drawn in any thread.
Colours are matplotlib's Blues and PuOr (https://colorbrewer2.org: colour-blind-safe) and Okabe
and Ito's (https://jfly.uni-koeln.de/color/); lines differ in their style too.

They are drawn while the run goes on, or at its end, when somebody waits. What costs time in
matplotlib are texts, ticks, legends, layouts, and numbers made colours for each pixel of the
figure; here these are `Label`s, grids of lines, places in inches, and images in colours.
"""

import io
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform
from PIL import Image

from mnist_jax.lettering import Label

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#777777"
_SPLITS = {"train": (_GREY, ":"), "validation": (_ORANGE, "--"), "test": (_BLUE, "-")}
_NUM_BINS = 10
_ROWS, _COLUMNS = 4, 5  # Of a sheet of images.
_WHITE = np.uint8(255)

# TensorBoard's Images tab scales a picture to 350 pixels in width. At 100 dots an inch these
# are 3.5 inches, so a font of 8 points looks there as it should; twice the dots keep what is
# smaller legible in the file.
_WIDTH = 3.5
_DPI = 200
_FONT = 8

_Looks = dict[str, Any]


def _figure(height: float, *title: str, width: float = _WIDTH) -> Figure:
    """Returns an empty figure of a size in inches, with the title's lines at its top."""
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    for number, line in enumerate(title):
        figure.add_artist(
            Label(
                0.5,
                1 - (0.06 + 0.14 * number) / height,
                line,
                ha="center",
                va="top",
                size=_FONT,
            )
        )
    return figure


def _add_axes(
    figure: Figure, left: float, bottom: float, right: float, top: float, **looks: Any
) -> Axes:
    """Adds axes without ticks, with margins in inches."""
    width, height = figure.get_size_inches()
    box = (left, bottom, width - left - right, height - bottom - top)
    return figure.add_axes(
        (box[0] / width, box[1] / height, box[2] / width, box[3] / height),
        xticks=[],
        yticks=[],
        **looks,
    )


def _add_image(axes: Axes, pixels: np.ndarray) -> None:
    """Fills the axes with `uint8[h, w, 3 or 4]`, unsmoothed: 1 x 1 of data a pixel."""
    axes.imshow(pixels, interpolation="none", aspect="auto")
    axes.set_axis_off()


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    size: float = _FONT - 1,
    transform: Transform | None = None,
    **looks: Any,
) -> None:
    axes.add_artist(
        Label(x, y, text, size=size, transform=transform or axes.transData, **looks)
    )


def _add_grid(axes: Axes, x_ticks: Sequence[float], *, x_labels: bool = True) -> None:
    """Draws lines at the ticks, those of y at round numbers, and what they stand for.

    Args:
      axes: Their limits are set.
      x_ticks: Within them.
      x_labels: Whether those of x are told.
    """
    y_ticks = _ticks(*axes.get_ylim())
    looks: _Looks = {"color": _GREY, "alpha": 0.4, "lw": 0.5}
    axes.vlines(x_ticks, *axes.get_ylim(), **looks)
    axes.hlines(y_ticks, *axes.get_xlim(), **looks)
    for tick in x_ticks if x_labels else ():
        place = axes.get_xaxis_transform()
        _write(axes, tick, -0.03, f"{tick:g}", transform=place, ha="center", va="top")
    for tick in y_ticks:
        place = axes.get_yaxis_transform()
        _write(axes, -0.015, tick, f"{tick:g}", transform=place, ha="right", va="center")


def _name(axes: Axes, y: str, x: str = "") -> None:
    """Writes what the axes are of, beside the numbers of `_add_grid`."""
    width, height = _size(axes)
    looks: _Looks = {"size": _FONT, "transform": axes.transAxes, "ha": "center"}
    _write(axes, -0.36 / width, 0.5, y, rotation=90, **looks)
    _write(axes, 0.5, -0.3 / height, x, **looks)


def _size(axes: Axes) -> tuple[float, float]:
    """Returns width and height in inches."""
    return axes.bbox.width / _DPI, axes.bbox.height / _DPI


def _ticks(low: float, high: float) -> list[float]:
    """Returns at most five round numbers from low to high."""
    return [x for x in MaxNLocator(4).tick_values(low, high) if low <= x <= high]


def _add_legend(axes: Axes, left: float, entries: Sequence[tuple[str, _Looks]]) -> None:
    """Tells at the top, from `left` of the axes' width on, what each kind of line is."""
    width, height = _size(axes)
    longest = max(len(text) for text, _ in entries)
    box = (left, 1 - 0.155 * len(entries) / height), 0.3 / width + 0.022 * longest, 1
    axes.add_patch(Rectangle(*box, transform=axes.transAxes, color="white", alpha=0.8, lw=0))
    for number, (text, looks) in enumerate(entries):
        y = 1 - (number + 0.5) * 0.155 / height
        points = [left + 0.03 / width, left + 0.13 / width, left + 0.23 / width]
        axes.plot(points, [y] * 3, transform=axes.transAxes, **looks, markevery=[1])
        _write(axes, left + 0.28 / width, y, text, transform=axes.transAxes, va="center")


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
    figure = _figure(side + 0.38, title, what, width=side)
    axes = _add_axes(figure, 0.36, 0.34, 0.02, 0.38)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root: else the mistakes, which one looks for, would all be one white.
    _add_image(axes, mpl.colormaps["Blues"](np.sqrt(shares), bytes=True))
    size = 6.5 if is_small else 3.6
    for row, column in np.argwhere(counts):
        share = shares[row, column]
        looks: _Looks = {
            "color": "white" if share > 0.4 else "black",
            "ha": "center",
            "va": "center",
        }
        place = row - 0.15 if is_small else row
        _write(axes, column, place, f"{counts[row, column]}", size, **looks)
        if is_small:
            _write(axes, column, row + 0.25, f"{100 * share:.1f}", 4.5, **looks)
    for label in range(num_classes):
        _write(axes, -0.65, label, f"{label}", size, ha="right", va="center")
        _write(axes, label, num_classes - 0.4, f"{label}", size, ha="center", va="top")
    figure.add_artist(
        Label(0.5, 0.04 / (side + 0.38), "predicted class", ha="center", size=_FONT)
    )
    figure.add_artist(
        Label(0.14 / side, 0.5, "true class", ha="center", rotation=90, size=_FONT)
    )
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
    return _sheet(images[chosen], captions, title, what)


def _sheet(images: np.ndarray, captions: Sequence[str], *title: str) -> Figure:
    """Draws images in rows, a caption above each."""
    figure = _figure(_WIDTH * _ROWS / _COLUMNS * (38 / 35) + 0.4, *title)
    axes = _add_axes(figure, 0, 0, 0, 0.4)
    # One picture for all of them: an axes each costs five times as much.
    height, width, edge = 28 + 10, 28 + 7, 3
    sheet = np.full((_ROWS * height, _COLUMNS * width), _WHITE)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, _COLUMNS)
        top, left = row * height + height - 28 - edge, column * width + edge
        sheet[top : top + 28, left : left + 28] = image
        _write(axes, left + 13.5, top - 1.5, caption, ha="center")
    _add_image(axes, np.stack([sheet] * 3, axis=-1))
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
    # The colours' key, in the same picture.
    key = np.full((round(0.07 * sheet.shape[1]), sheet.shape[1]), np.nan)
    third = sheet.shape[1] // 3
    key[len(key) // 2 :, third : 2 * third] = np.linspace(-scale, scale, third)
    sheet = np.concatenate([sheet, key])
    what = f"weights of the first layer: {len(units)} of {kernel.shape[1]} units"
    height, width = np.array(sheet.shape) * (_WIDTH * _DPI // sheet.shape[1]) / _DPI
    figure = _figure(height + 0.4, title, what, width=width)
    axes = _add_axes(figure, 0, 0.02, 0, 0.38)
    _add_image(axes, mpl.colormaps["PuOr"](sheet / scale / 2 + 0.5, bytes=True))
    middle = sheet.shape[0] - len(key) / 4
    _write(axes, third, middle, f"{-scale:.2g} ", ha="right", va="center")
    _write(axes, 2 * third, middle, f" {scale:.2g}", va="center")
    return figure


def learning_curves(journal: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws loss and accuracy of every split over the steps.

    Args:
      journal: The lines of `metrics.jsonl`.
      title: Names the dataset and the step.
    """
    figure = _figure(4.2, title)
    loss_axes = _add_axes(figure, 0.5, 2.25, 0.1, 0.25)
    accuracy_axes = _add_axes(figure, 0.5, 0.4, 0.1, 2.05)

    def points(tag: str) -> tuple[list[int], list[float]]:
        lines = [line for line in journal if tag in line]
        return [line["step"] for line in lines], [line[tag] for line in lines]

    batch_looks: _Looks = {"color": _GREY, "alpha": 0.5, "lw": 1}
    loss_axes.plot(*points("train/loss"), **batch_looks)
    entries = []
    for split, (colour, style) in _SPLITS.items():
        looks: _Looks = {"color": colour, "ls": style, "marker": "o", "ms": 3, "lw": 1.2}
        loss_tag = "train/eval_loss" if split == "train" else f"{split}/loss"
        loss_axes.plot(*points(loss_tag), **looks)
        steps, accuracies = points(f"{split}/accuracy")
        accuracy_axes.plot(steps, accuracies, **looks)
        last = f" {accuracies[-1]:.4f}" if accuracies else ""
        entries.append((f"{split}{last}", looks))
    end = max([line["step"] for line in journal], default=1)
    loss_axes.set_ylim(bottom=0)
    for axes, what in ((loss_axes, "cross-entropy, nats"), (accuracy_axes, "accuracy")):
        axes.set_xlim(0, 1.03 * end)
        _add_grid(axes, _ticks(0, end), x_labels=axes is accuracy_axes)
        _name(axes, what, "step" if axes is accuracy_axes else "")
    _add_legend(loss_axes, 0.55, [("train, a batch", batch_looks), *entries])
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
    figure = _figure(3.9, title, f"expected calibration error {ece:.4f}")
    axes = _add_axes(figure, 0.5, 1.25, 0.1, 0.38, xlim=(0, 1), ylim=(0, 1))
    counts = _add_axes(figure, 0.5, 0.38, 0.1, 2.75, xlim=(0, 1))
    edges = np.arange(_NUM_BINS + 1) / _NUM_BINS
    perfect: _Looks = {"color": _GREY, "ls": "--", "lw": 1}
    bars: _Looks = {"color": _BLUE, "alpha": 0.35}
    means: _Looks = {"color": _ORANGE, "marker": "o", "ms": 4, "ls": ""}
    axes.stairs(np.nan_to_num(accuracy), edges, fill=True, **bars)
    axes.plot([0, 1], [0, 1], **perfect)
    axes.plot(mean, accuracy, **means)
    counts.stairs(count, edges, fill=True, color=_GREY)
    counts.set_ylim(0, 1.05 * max(count.max(), 1))
    for both in (axes, counts):
        _add_grid(both, [0, 0.2, 0.4, 0.6, 0.8, 1], x_labels=both is counts)
    _name(axes, "accuracy")
    _name(counts, "examples", "confidence: the predicted class's probability")
    entries = [
        ("perfect", perfect),
        ("accuracy in the bin", bars | {"lw": 5}),
        ("at its mean confidence", means),
    ]
    _add_legend(axes, 0.01, entries)
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
    with ThreadPoolExecutor(1) as pool:  # Compressing leaves Python's lock to the rendering.
        encoded = {n: pool.submit(encode, render(figure)) for n, figure in figures.items()}
    pngs = {name: future.result() for name, future in encoded.items()}
    for name, png in pngs.items():
        save(png, folder / f"{name}.png")
    return pngs

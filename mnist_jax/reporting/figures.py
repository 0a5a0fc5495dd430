"""Pictures of a run: matplotlib figures as functions of arrays, and how they are written.

`Figure` and its Agg canvas, never pyplot: nothing global, so they may be drawn in any thread.
Colours are matplotlib's Blues and PuOr (https://colorbrewer2.org: colour-blind-safe) and Okabe
and Ito's (https://jfly.uni-koeln.de/color/); lines differ in their style too.
"""

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mnist_jax.reporting.panels import FONT, SMALL, Label, Looks, Panel, ticks

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


def _figure(height: float, *title: str, width: float = _WIDTH) -> Figure:
    """Returns an empty figure of a size in inches, with the title's lines at its top."""
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    # IPython shows no figure that has neither axes nor a line of its own.
    nothing = Line2D([], [])
    figure.add_artist(nothing)
    figure.lines.append(nothing)
    for number, line in enumerate(title):
        y = height - 0.06 - 0.14 * number
        figure.add_artist(
            Label(figure.dpi_scale_trans, width / 2, y, line, FONT, ha="center", va="top")
        )
    return figure


def _add_picture(
    figure: Figure, pixels: np.ndarray, margins: tuple[float, float, float, float]
) -> Panel:
    """Adds a picture whose pixels' centres have whole coordinates, from the upper left on."""
    height, width, _ = pixels.shape
    panel = Panel(figure, margins, (-0.5, width - 0.5), (height - 0.5, -0.5))
    panel.picture(pixels)
    return panel


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
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root: else the mistakes, which one looks for, would all be one white.
    pixels = mpl.colormaps["Blues"](np.sqrt(shares), bytes=True)
    panel = _add_picture(figure, pixels, (0.36, 0.34, 0.02, 0.38))
    size = 6.5 if is_small else 3.6
    for row, column in np.argwhere(counts):
        share = shares[row, column]
        looks: Looks = {
            "color": "white" if share > 0.4 else "black",
            "ha": "center",
            "va": "center",
        }
        place = row - 0.15 if is_small else row
        panel.write(column, place, f"{counts[row, column]}", size, **looks)
        if is_small:
            panel.write(column, row + 0.25, f"{100 * share:.1f}", 4.5, **looks)
    for label in range(num_classes):
        panel.write(-0.65, label, f"{label}", size, ha="right", va="center")
        panel.write(label, num_classes - 0.4, f"{label}", size, ha="center", va="top")
    panel.name("true class", "predicted class", apart=0.2)
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
    height, width, edge = 28 + 10, 28 + 7, 3
    sheet = np.full((_ROWS * height, _COLUMNS * width, 4), _WHITE)
    panel = _add_picture(figure, sheet, (0, 0, 0, 0.4))
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, _COLUMNS)
        top, left = row * height + height - 28 - edge, column * width + edge
        sheet[top : top + 28, left : left + 28, :3] = image[:, :, np.newaxis]
        panel.write(left + 13.5, top - 1.5, caption, ha="center")
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
    # Each weight as a square of whole dots, as large as there is room for.
    height, width = np.array(sheet.shape) * (_WIDTH * _DPI // sheet.shape[1]) / _DPI
    figure = _figure(height + 0.4, title, what)
    side = (_WIDTH - width) / 2
    pixels = mpl.colormaps["PuOr"](sheet / scale / 2 + 0.5, bytes=True)
    panel = _add_picture(figure, pixels, (side, 0.02, side, 0.38))
    middle = sheet.shape[0] - len(key) / 4
    panel.write(third, middle, f"{-scale:.2g} ", ha="right", va="center")
    panel.write(2 * third, middle, f" {scale:.2g}", va="center")
    return figure


def learning_curves(journal: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws loss and accuracy of every split over the steps.

    Args:
      journal: The lines of `metrics.jsonl`.
      title: Names the dataset and the step.
    """

    def points(tag: str) -> tuple[list[int], list[float]]:
        told = [line for line in journal if math.isfinite(line.get(tag, math.nan))]
        return [line["step"] for line in told], [line[tag] for line in told]

    looks: dict[str, Looks] = {
        split: {"color": colour, "ls": style, "marker": "o", "ms": 3, "lw": 1.2}
        for split, (colour, style) in _SPLITS.items()
    }
    batch: Looks = {"color": _GREY, "alpha": 0.5, "lw": 1}
    accuracies = {f"{split}/accuracy": looks[split] for split in _SPLITS}
    losses = {"train/loss": batch, "train/eval_loss": looks["train"]}
    losses |= {f"{split}/loss": looks[split] for split in ("validation", "test")}
    lines = {tag: points(tag) for tag in (*losses, *accuracies)}

    end = 1.03 * max([line["step"] for line in journal], default=1)
    highest = max([loss for tag in losses for loss in lines[tag][1]], default=1)
    some = [accuracy for tag in accuracies for accuracy in lines[tag][1]] or [0, 1]
    edge = 0.05 * (max(some) - min(some)) or 0.01

    figure = _figure(4.2, title)
    upper = Panel(figure, (0.5, 2.25, 0.1, 0.25), (0, end), (0, 1.05 * highest or 1))
    lower = Panel(figure, (0.5, 0.4, 0.1, 2.05), (0, end), (min(some) - edge, max(some) + edge))
    for panel, curves in ((upper, losses), (lower, accuracies)):
        panel.grid(ticks(0, end), x_labels=panel is lower)
        for tag, curve_looks in curves.items():
            panel.line(*lines[tag], curve_looks)
    upper.name("cross-entropy, nats")
    lower.name("accuracy", "step")
    entries = [("train, a batch", batch)]
    for split in _SPLITS:
        last = "".join(f" {accuracy:.4f}" for accuracy in lines[f"{split}/accuracy"][1][-1:])
        entries.append((f"{split}{last}", looks[split]))
    upper.legend(1.6, entries)
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
    edges = np.arange(_NUM_BINS + 1) / _NUM_BINS
    perfect: Looks = {"color": _GREY, "ls": "--", "lw": 1}
    bars: Looks = {"color": _BLUE, "alpha": 0.35}
    means: Looks = {"color": _ORANGE, "marker": "o", "ms": 4, "ls": ""}

    figure = _figure(3.9, title, f"expected calibration error {ece:.4f}")
    upper = Panel(figure, (0.5, 1.25, 0.1, 0.38), (0, 1), (0, 1))
    lower = Panel(figure, (0.5, 0.38, 0.1, 2.75), (0, 1), (0, 1.05 * max(count.max(), 1)))
    upper.stairs(np.nan_to_num(accuracy), edges, bars)
    upper.line([0, 1], [0, 1], perfect)
    upper.line(list(mean), list(accuracy), means)
    lower.stairs(count, edges, {"color": _GREY})
    for panel in (upper, lower):
        panel.grid([0, 0.2, 0.4, 0.6, 0.8, 1], x_labels=panel is lower)
    upper.name("accuracy")
    lower.name("examples", "confidence: the predicted class's probability")
    entries = [
        ("perfect", perfect),
        ("accuracy in the bin", bars | {"lw": 5}),
        ("at its mean confidence", means),
    ]
    upper.legend(0.02, entries)
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
        left.set_title(title, fontsize=SMALL, loc="left", parse_math=False, pad=2)
        for axes in (left, right):
            axes.set(xticks=[], yticks=[])
    return figure


def draw(
    dataset: str,
    step: int,
    labels: np.ndarray,
    log_probabilities: np.ndarray,
    misread: np.ndarray,
    kernel: np.ndarray,
    journal: Sequence[Mapping[str, Any]],
) -> dict[str, Figure]:
    """Draws all that shows a model at one step.

    Args:
      dataset: Its name.
      step: Completed updates.
      labels: The test split's, `int32[n]`.
      log_probabilities: Of its images, `float32[n, num_classes]`.
      misread: Those images that are taken for another class, `uint8[m, 28, 28]`, in order.
      kernel: The first layer's, `float32[784, units]`.
      journal: The lines of `metrics.jsonl`.

    Returns:
      The figures by name.
    """
    when, where = f"step {step}", f"{dataset}, test"
    probabilities = np.exp(log_probabilities)
    counts = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    is_misread = log_probabilities.argmax(axis=1) != labels
    wrong = misread, labels[is_misread], probabilities[is_misread]
    return {
        "confusion_matrix": confusion_matrix(counts, f"{where}, {when}"),
        "mistakes": mistakes(*wrong, f"{where}, {when}"),
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
    """Returns a PNG of what `render` returns.

    Pillow tries each of PNG's five filters on each row, which takes four times as long; and
    for most of these pictures none of them at all gives the smallest file.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # Each begins with 0: no filter.
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, colours.

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.data, 1))
        + chunk(b"IEND", b"")
    )


def save(png: bytes | Figure, path: Path) -> None:
    """Writes a picture whole or not at all: aside, then renamed.

    Args:
      png: See `encode`.
      path: In a folder that exists.

    Raises:
      OSError: It can't be written.
    """
    if isinstance(png, Figure):
        png = encode(render(png))
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(png)
    aside.replace(path)


def save_all(folder: Path, figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Writes `<folder>/<name>.png` of each, and returns them."""
    pngs = {name: encode(render(figure)) for name, figure in figures.items()}
    for name, png in pngs.items():
        save(png, folder / f"{name}.png")
    return pngs

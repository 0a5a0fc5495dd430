"""The figures of a run, drawn by matplotlib from NumPy arrays, without pyplot's global state.

They may be drawn in a thread, while a user's own code plots. So this module reads matplotlib's
`rcParams`, which are the style of the process, and never changes them. The colours are safe for
colour-blind readers: matplotlib's Blues and PuOr, and Okabe and Ito's
(https://jfly.uni-koeln.de/color/).
"""

import contextlib
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if "matplotlib" not in sys.modules and (_backend := os.environ.pop("MPLBACKEND", "")):
    import matplotlib

    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):  # There is no such backend; none is needed here.
        matplotlib.rcParams["backend"] = _backend
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from mnist_jax.reporting.figure_worker import Evaluation
from mnist_jax.runtime.errors import first_line
from mnist_jax.runtime.files import replacing

# TensorBoard's Images tab shows an image 350 pixels wide, that is 3.5 inches at 100 dpi, where
# a font of 8 points is legible. The file has twice as many pixels.
_WIDTH, _DPI = 3.5, 200
_FONT, _SMALL = 8, 7  # Points.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#777777"
_SPLITS = {"train": (_GREY, ":"), "validation": (_ORANGE, "--"), "test": (_BLUE, "-")}
_ROWS, _COLUMNS = 4, 5  # Of a sheet of images.

warnings.filterwarnings("ignore", module=__name__)  # A class's name may lack in the font.


def _title(data: Evaluation, middle: str = "") -> str:
    """Returns the first line of a figure; `middle` is by default that of the split."""
    name = data.dataset.name  # Or the path of a user's own.
    name = _shorten(Path(name).name if Path(name).is_absolute() else name, 30)
    return f"{name}, {middle or f'{data.split}, step'} {data.step}"


def _create_figure(height: float, *title: str, width: float = _WIDTH) -> Figure:
    """Returns a figure of a size in inches, with the lines of its title at the top."""
    figure = Figure(figsize=(width, height), dpi=_DPI)
    figure.set_layout_engine("none")
    figure.suptitle("\n".join(title), y=1 - 0.05 / height, fontsize=_FONT, parse_math=False)
    return figure


def _add_axes(figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Adds axes; the margins between them and the edges of the figure are in inches."""
    width, height = figure.get_size_inches()
    size = (width - left - right) / width, (height - bottom - top) / height
    return figure.add_axes((left / width, bottom / height, *size))


def _add_plot(figure: Figure, bottom: float, top: float, ylabel: str, xlabel: str = "") -> Axes:
    """Adds axes with a grid at round numbers; without `xlabel`, the x axis has no numbers."""
    axes = _add_axes(figure, 0.6, bottom, 0.15, top)
    axes.set_xlabel(xlabel, fontsize=_FONT)
    axes.set_ylabel(ylabel, fontsize=_FONT)
    axes.yaxis.set_label_coords(-0.16, 0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=_SMALL, labelbottom=bool(xlabel), length=2)
    axes.grid(color=_GREY, alpha=0.4, linewidth=0.5)
    return axes


def _shorten(name: str, length: int = 11) -> str:
    """Returns a name as one line that fits beside an axis or above an image."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length - 1]}…"


def confusion_matrix(data: Evaluation) -> Figure | None:
    """Draws how often each true class was predicted as which.

    The colour is the share of the row.
    """
    names = [_shorten(name) for name in data.dataset.class_names]
    num_classes = len(names)
    if not 0 < num_classes <= 100:  # With more, nothing would be legible.
        return None
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (data.examples.label, data.predicted), 1)
    size = 6.5 if num_classes <= 10 else 3.6
    longest = max(map(len, names))
    room = 0.01 * size * max(0, longest - 2)  # Inches for names longer than two digits.
    width = max(_WIDTH, 0.19 * num_classes + 0.3 + room)
    title = _title(data), "count; darker: more of the row"
    figure = _create_figure(width + 0.38, *title, width=width)
    axes = _add_axes(figure, 0.36 + room, 0.34 + room, 0.02, 0.38)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root makes the small shares visible: a reader looks for the mistakes.
    axes.imshow(np.sqrt(shares), "Blues", vmin=0, vmax=1, aspect="auto", origin="upper")
    for row, column in np.argwhere(counts):
        color = "white" if shares[row, column] > 0.4 else "black"
        style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "color": color}
        axes.text(column, row, f"{counts[row, column]}", fontsize=size, **style)
    axes.set_xlabel("predicted class", fontsize=_FONT)
    axes.set_ylabel("true class", fontsize=_FONT)
    rotation = 90 if longest > 2 else 0
    axes.set_xticks(range(num_classes), names, rotation=rotation, parse_math=False)
    axes.set_yticks(range(num_classes), names, parse_math=False)
    axes.tick_params(labelsize=size, length=0, pad=2)
    axes.spines[:].set_visible(False)
    return figure


def examples(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """Draws the first images, `[n, *image_shape]`, with the names of their labels."""
    captions = [_shorten(class_names[label]) for label in labels[: _ROWS * _COLUMNS]]
    return _sheet(images, captions, title)


def mistakes(data: Evaluation) -> Figure | None:
    """Draws the misclassified images with the highest confidence, in descending order."""
    (images, labels), predicted = data.examples, data.predicted
    if not data.dataset.class_names or images.ndim not in (3, 4):
        return None
    confidence, wrong = data.confidence, np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")[: _ROWS * _COLUMNS]]
    names = [_shorten(name, 9) for name in data.dataset.class_names]
    space = " " if max(map(len, names)) == 1 else "\n"
    captions = [
        f"{names[labels[i]]}{space}→ {names[predicted[i]]}{space}({confidence[i]:.0%})"
        for i in chosen
    ]
    subtitle = "most confidently wrong: true → predicted" if captions else "no mistakes"
    return _sheet(images[chosen], captions, _title(data), subtitle)


def _sheet(images: np.ndarray, captions: Sequence[str], *title: str) -> Figure:
    """Draws an image below each of at most 20 captions."""
    images = images[: len(captions)]
    if images.dtype != np.uint8 and len(images):
        images = images.astype(np.float32) - images.min()
        images = (images * (255 / (images.max() or 1))).astype(np.uint8)
    if images.shape[3:] not in ((), (3,)):  # `imshow` draws grey and RGB.
        images = images.mean(axis=3).astype(np.uint8)
    cell, lines = _WIDTH / _COLUMNS, max((text.count("\n") + 1 for text in captions), default=1)
    width, room = 0.82 * cell, 0.07 + 0.11 * lines  # Inches.
    height = width * images.shape[1] / images.shape[2]
    total = _ROWS * (room + height) + 0.05
    figure = _create_figure(total + 0.4, *title)
    axes = _add_axes(figure, 0, 0, 0, 0.4)  # One for all: axes of their own take 0.2 s.
    # White, whatever the style of the process is: the images have dark edges.
    axes.set(xlim=(0, _WIDTH), ylim=(total, 0), xticks=[], yticks=[], facecolor="white")
    axes.spines[:].set_visible(False)
    style: dict[str, Any] = {"fontsize": _SMALL, "ha": "center", "color": "black"}
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, _COLUMNS)
        top, left = row * (room + height) + room, column * cell + (cell - width) / 2
        extent = left, left + width, top + height, top
        axes.imshow(
            image, "gray", vmin=0, vmax=255, extent=extent, origin="upper", aspect="auto"
        )
        axes.text(left + width / 2, top - 0.03, caption, parse_math=False, **style)
    return figure


def first_layer(data: Evaluation) -> Figure | None:
    """Draws the weights of the first 144 units as images."""
    if not data.weights:
        return None
    weights = data.weights()
    units = weights[:144]
    columns = min(12, max(5, math.ceil(math.sqrt(len(units)))))
    margins = ((0, -len(units) % columns), (0, 1), (0, 1))
    padded = np.pad(units, margins, constant_values=np.nan)
    sheet = np.vstack(
        [np.hstack(row) for row in padded.reshape(-1, columns, *padded.shape[1:])]
    )
    # A weight is a whole number of pixels wide if it can: else they would differ in width.
    scale = _WIDTH * _DPI / sheet.shape[1]
    height, width = np.array(sheet.shape) * (math.floor(scale) or scale) / _DPI
    limit = float(np.percentile(np.abs(weights), 99.5)) or 1.0
    # A colour bar takes 0.1 s.
    subtitle = f"weights of {len(units)} of {len(weights)} units, orange to violet ±{limit:.2g}"
    figure = _create_figure(height + 0.4, _title(data, "step"), subtitle)
    axes = _add_axes(figure, (_WIDTH - width) / 2, 0, (_WIDTH - width) / 2, 0.4)
    axes.set_axis_off()
    axes.imshow(sheet, "PuOr", aspect="auto", origin="upper", vmin=-limit, vmax=limit)
    return figure


def learning_curves(data: Evaluation) -> Figure:
    """Draws the loss and a metric by step."""
    figure = _create_figure(4.2, _title(data, "to step"))
    metric, _ = data.task.best
    label = "cross-entropy, nats" if metric == "accuracy" else "loss"
    losses = _add_plot(figure, 2.25, 0.25, label)
    metrics = _add_plot(figure, 0.4, 2.05, metric, "step")

    def plot(axes: Axes, tag: str, name: str, color: str, **style: Any) -> None:
        lines = [line for line in data.journal if math.isfinite(line.get(tag, math.nan))]
        if 1 < len(lines) < 6 and lines[0]["step"] == 0:
            del lines[0]  # The line from it would hide the curves of more points.
        steps, values = [line["step"] for line in lines], [line[tag] for line in lines]
        label = f"{name} {values[-1]:.4f}" if values else name
        axes.plot(steps, values, color=color, label=label, **style)

    plot(losses, "batch/loss", "training batch", _GREY, alpha=0.5, linewidth=1)
    for split, (color, line_style) in _SPLITS.items():
        style = {"linestyle": line_style, "marker": "o", "markersize": 3, "linewidth": 1.2}
        plot(losses, f"{split}/loss", split, color, **style)
        plot(metrics, f"{split}/{metric}", split, color, **style)
    for axes in (losses, metrics):
        axes.set_xlim(0, 1.03 * max([line["step"] for line in data.journal], default=1))
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=_SMALL)
    losses.set_ylim(bottom=0)
    return figure


def calibration(data: Evaluation) -> Figure | None:
    """Draws the reliability diagram.

    The expected calibration error is the sum of n_bin / n * |accuracy - mean confidence|
    (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    """
    if not data.dataset.class_names:
        return None
    num_bins, confidence = 10, data.confidence.astype(float)
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # Empty bins have NaN.
        accuracy = np.bincount(bins, data.predicted == data.examples.label, num_bins) / count
        mean = np.bincount(bins, confidence, num_bins) / count
    ece = np.nansum(count * np.abs(accuracy - mean)) / max(len(confidence), 1)

    figure = _create_figure(3.9, _title(data), f"expected calibration error {ece:.4f}")
    upper = _add_plot(figure, 1.25, 0.38, "accuracy")
    lower = _add_plot(figure, 0.38, 2.75, "examples", "confidence in the predicted class")
    upper.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect")
    edges = np.linspace(0, 1, num_bins + 1)
    style: dict[str, Any] = {"fill": True, "color": _BLUE, "alpha": 0.35}
    upper.stairs(np.nan_to_num(accuracy), edges, label="accuracy in the bin", **style)
    upper.plot(mean, accuracy, "o", color=_ORANGE, markersize=4, label="at its mean confidence")
    upper.legend(fontsize=_SMALL)
    lower.stairs(count, edges, fill=True, color=_GREY)
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.set(xlim=(0, 1))
    return figure


def predictions(
    inputs: Sequence[np.ndarray], digits: Sequence[np.ndarray], titles: Sequence[str]
) -> Figure:
    """Draws inputs, `float[height, width, channels]`, beside their `uint8[*image_shape]`."""
    height = 2.5 * len(inputs) + 0.3
    figure = _create_figure(height, "input, and the image that the network gets", width=4.8)
    no_ticks: dict[str, Any] = {"xticks": [], "yticks": []}
    rows = figure.subplots(len(inputs), 2, squeeze=False, subplot_kw=no_ticks)
    figure.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.45 / height, hspace=0.12)
    for (left, right), pixels, digit, title in zip(rows, inputs, digits, titles, strict=True):
        image: dict[str, Any] = {"interpolation": "nearest", "origin": "upper"}
        left.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), **image)
        right.imshow(digit, cmap="gray", vmin=0, vmax=255, **image)
        left.set_title(
            _shorten(title, 72), fontsize=_SMALL, loc="left", parse_math=False, pad=2
        )
    return figure


# Each returns None where the data do not suit.
FIGURES: dict[str, Callable[[Evaluation], Figure | None]] = {
    figure.__name__: figure
    for figure in (calibration, learning_curves, mistakes, confusion_matrix, first_layer)
}


def draw(
    folder: Path, data: Evaluation, should_stop: Callable[[], bool] = lambda: False
) -> tuple[dict[str, bytes], list[str]]:
    """Saves a task's figures in a folder; returns the PNGs by name, and what went wrong.

    Those that the data do not suit are left out, and one that fails does not prevent the
    others. `should_stop` is called before each figure.

    Raises:
      OSError: A file can't be written.
    """
    pngs: dict[str, bytes] = {}
    errors = []
    for name in data.task.figures:
        if should_stop():
            break
        try:
            if figure := FIGURES[name](data):
                pngs[name] = save(folder / f"{name}.png", figure)
        except OSError:
            raise
        except Exception as error:  # Of any type: class names and images may be anything.
            errors.append(f"{name}: {first_line(error)}")
    return pngs, errors


def save(path: Path, figure: Figure) -> bytes:
    """Writes a figure as a PNG, completely or not at all, and returns the file's content.

    Raises:
      OSError: The file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    # By `rcParams` a text could need a LaTeX. To find them takes a third of the time.
    for text in figure.findobj(Text) if rcParams["text.usetex"] else ():
        text.set_usetex(False)
    options = {"compress_level": 1}  # 0.1 s faster.
    figure.savefig(buffer, format="png", dpi="figure", pil_kwargs=options)
    with replacing(path) as file:
        file.write(buffer.getvalue())
    return buffer.getvalue()

"""Writes the results of `accuracy` into the documents: the tables and the plot."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt

from benchmarks import accuracy, document
from mnist_jax.configs import lecun

_PLOT = Path("images") / "accuracy.png"
_LECUN, _HINTON = "LeCun et al. 1998", "Hinton 2005, unpublished"
_SIMARD, _CIRESAN = "Simard et al. 2003", "Cireşan et al. 2010"
_MEIER = "Meier et al. 2011"
_CNN = f"{_SIMARD}; LeNet-5 0.8 ({_LECUN}), 0.35 (Cireşan et al. 2011)"
_CNNS = "Cireşan, Meier, Schmidhuber 2012: 35 networks, with normalized widths"
# From the palette of Okabe and Ito, by the training images.
_COLORS = {"plain": "#0072b2", "affine": "#009e73", "elastic": "#d55e00"}
# In the plot, where the right is taken.
_LABELLED_LEFT = ("500-300", "deep-elastic", "800-elastic", "cnn-99.6")
_MISSING = "not trained yet"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of LeCun's page, all errors in percent of the test images.

    Attributes:
      network: Its name in the table.
      images: What it is trained on here: `plain`, `affine` or `elastic`; see augmentation.py.
      published: The error on LeCun's page.
      source: Of the published error, with what differs.
      at_most: The bar that we set for our mean.
      aim: What we hoped for; None: no more than the bar.
      run: The row of configs/lecun.py whose run has the result.
      is_committee: The result is that of the run's seeds as a committee.
    """

    network: str
    images: str
    published: float
    source: str
    at_most: float
    aim: float | None
    run: str
    is_committee: bool = False


ROWS = (
    Row("linear", "plain", 12.0, _LECUN, 7.6, None, "linear"),
    Row("300", "plain", 4.7, f"{_LECUN}; 1.6 with deskewed images", 1.55, None, "300"),
    Row("300", "elastic", 3.6, _LECUN, 0.9, 0.7, "300-distorted"),
    Row("1000", "plain", 4.5, _LECUN, 1.3, 1.2, "1000"),
    Row("1000", "elastic", 3.8, _LECUN, 0.65, 0.5, "1000-distorted"),
    Row("300-100", "plain", 3.05, _LECUN, 1.5, None, "300-100"),
    Row("300-100", "elastic", 2.5, _LECUN, 0.9, 0.7, "300-100-distorted"),
    Row("500-150", "plain", 2.95, _LECUN, 1.4, None, "500-150"),
    Row("500-150", "elastic", 2.45, _LECUN, 0.75, 0.6, "500-150-distorted"),
    Row("500-300", "plain", 1.53, _HINTON, 1.4, 1.25, "500-300"),
    Row("800", "plain", 1.6, _SIMARD, 1.35, 1.2, "800"),
    Row("800", "affine", 1.1, _SIMARD, 0.8, 0.7, "800-affine"),
    Row("800", "elastic", 0.7, _SIMARD, 0.6, 0.45, "800-elastic"),
    Row("2500-2000-1500-1000-500", "elastic", 0.35, _CIRESAN, 0.35, 0.32, "deep-elastic"),
    Row(
        "committee of 25, 800 each",
        "elastic",
        0.39,
        f"{_MEIER}; with normalized widths, deslanted",
        0.39,
        0.33,
        "800-elastic",
        is_committee=True,
    ),
    Row("CNN, 16-32-32-64-64", "elastic", 0.4, _CNN, 0.35, 0.28, "cnn-99.6"),
    Row(
        "committee of 6, 16-32-32-64-64 each",
        "elastic",
        0.23,
        _CNNS,
        0.23,
        0.19,
        "cnn-99.6",
        is_committee=True,
    ),
    Row("CNN, 24-48-48-96-96", "elastic", 0.4, _CNN, 0.35, 0.28, "cnn-elastic"),
    Row(
        "committee of 6, 24-48-48-96-96 each",
        "elastic",
        0.23,
        _CNNS,
        0.23,
        0.19,
        "cnn-elastic",
        is_committee=True,
    ),
)

# By test accuracy in percent: the row that reaches it in the least time that we found.
COSTS = {99.0: "cnn-99", 99.4: "cnn-99.4", 99.6: "cnn-99.6"}


def write(results: Mapping[str, Any], path: Path, readme: Path) -> None:
    """Writes the tables into their sections of the documents, and draws the plot.

    Args:
      results: By row of configs/lecun.py; see `accuracy.summarize`.
      path: The document; the plot is written to `images/` in its folder.
      readme: Gets a shorter table.
    """
    plot(results, path.parent / _PLOT)
    document.replace_section(path, "accuracy: table", results_table(results))
    document.replace_section(path, "accuracy: cost", cost_table(results))
    document.replace_section(path, "accuracy: runs", runs_table(results))
    document.replace_section(readme, "accuracy", short_table(results))


def results_table(results: Mapping[str, Any]) -> str:
    """Returns each row's published error, ours, and the bar, as a markdown table."""
    header = ["network", "training images", "published", "source", "ours, test"]
    header += ["seeds", "ours, validation", "at most", "", "aim"]
    lines = []
    for row in ROWS:
        entry = results.get(row.run)
        lines.append(
            [
                row.network,
                row.images,
                f"{row.published:g}",
                row.source,
                _error(row, entry, "test"),
                str(len(entry["test"]["seeds"])) if entry else "",
                _error(row, entry, "validation") if entry else "",
                f"{row.at_most:g}",
                _verdict(row, entry) if entry else "",
                f"{row.aim or '':}",
            ]
        )
    return document.table(header, lines)


def cost_table(results: Mapping[str, Any]) -> str:
    """Returns what it takes to reach an accuracy, as a markdown table."""
    header = ["test accuracy, %", "row", "ours", "epochs", "minutes for all seeds", "for each"]
    header += ["devices"]
    lines = []
    for target, run in COSTS.items():
        entry = results.get(run)
        if not entry:
            lines.append([f"{target:g}", f"`{run}`", _MISSING, "", "", "", ""])
            continue
        mean, std = 100 - entry["test"]["mean"], entry["test"]["std"]
        verdict = "" if mean >= target else ", **missed**"
        minutes = entry["wall_s"] / 60
        lines.append(
            [
                f"{target:g}",
                f"`{run}`",
                f"{mean:.2f} ± {std:.2f}{verdict}",
                f"{entry['epochs']:.0f}",
                f"{minutes:.1f}",
                f"{minutes / len(entry['test']['seeds']):.2f}",
                entry["machine"]["devices"],
            ]
        )
    return document.table(header, lines)


def runs_table(results: Mapping[str, Any]) -> str:
    """Returns each run's size, length, time and command, and what all of them ran on."""
    header = ["command", "parameters of a seed", "seeds", "epochs", "wall time", "attempts"]
    header += ["devices"]
    lines, machines = [], set()
    for run in dict.fromkeys([*(row.run for row in ROWS), *COSTS.values()]):
        entry = results.get(run)
        if not entry:
            command = f"python train.py --config configs/lecun.py:{run}"
            lines.append([f"`{command}`", *[""] * 3, _MISSING, "", ""])
            continue
        machines.add(", ".join(f"{k} {v}" for k, v in entry["machine"].items()))
        lines.append(
            [
                f"`{entry['command']}`",
                f"{entry['num_params']:,}",
                str(len(entry["test"]["seeds"])),
                f"{entry['epochs']:.0f}",
                f"{entry['wall_s'] / 60:,.1f} min",
                str(entry["attempts"]),
                entry["machine"]["devices"],
            ]
        )
    table = document.table(header, lines)
    return "\n".join([table, *(f"Trained on: {machine}.\n" for machine in sorted(machines))])


def short_table(results: Mapping[str, Any]) -> str:
    """Returns the published errors and ours as a markdown table."""
    lines = [
        [
            row.network,
            row.images,
            f"{row.published:g}",
            _error(row, results.get(row.run), "test"),
        ]
        for row in ROWS
    ]
    return document.table(["network", "training images", "published", "ours"], lines)


def _value(row: Row, entry: Mapping[str, Any], split: str = "test") -> float:
    value: float = entry[split]["committee" if row.is_committee else "mean"]
    return value


def _error(row: Row, entry: Mapping[str, Any] | None, split: str) -> str:
    if not entry:
        return _MISSING
    std = None if row.is_committee else entry[split]["std"]
    return f"{_value(row, entry, split):.2f}" + (f" ± {std:.2f}" if std is not None else "")


def _verdict(row: Row, entry: Mapping[str, Any]) -> str:
    return "met" if _value(row, entry) <= row.at_most else "**missed**"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draws test errors against parameters: ours as filled markers, published ones hollow."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    labelled: set[str] = set()
    for row in ROWS:
        color, entry = _COLORS[row.images], results.get(row.run)
        marker = "s" if row.is_committee else "o"
        x = _num_params(row)
        axes.plot(x, row.published, marker, color=color, markerfacecolor="white")
        if row.network not in labelled:
            labelled.add(row.network)
            is_left = row.run in _LABELLED_LEFT
            axes.annotate(
                row.network,
                (x, row.published),
                xytext=(-6 if is_left else 6, -3),
                textcoords="offset points",
                ha="right" if is_left else "left",
                fontsize=8,
            )
        if entry:
            y, std = _value(row, entry), entry["test"]["std"]
            axes.plot([x, x], [row.published, y], ":", color=color, linewidth=0.8)
            spread = None if row.is_committee else std
            axes.errorbar(x, y, spread, fmt=marker, color=color, capsize=3)
    for images, color in _COLORS.items():
        axes.plot([], [], "o", color=color, label=f"{images} images")
    axes.plot([], [], "o", color="black", label="ours, mean ± standard deviation")
    axes.plot([], [], "o", color="black", markerfacecolor="white", label="published")
    axes.plot([], [], "s", color="black", markerfacecolor="white", label="committee")
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [0.3, 0.5, 0.7, 1, 2, 3, 5, 10]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("parameters")
    axes.set_ylabel("test error, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _num_params(row: Row) -> int:
    config = lecun.get_config(row.run)
    return accuracy.num_params(config) * (config.num_seeds if row.is_committee else 1)

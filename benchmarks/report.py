"""Writes the results of `compare` into a document: the table, the bars and the plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt

from benchmarks import document
from benchmarks import results as results_lib
from benchmarks.results import BARS, Bar, Runs, summarize, void_reason

# From the palette of Okabe and Ito: distinguishable with colour blindness, and in grey.
_OURS_COLOR, _PEERS_COLOR, _LIMITS_COLOR = "#0072b2", "#e69f00", "#999999"
_EMPTY = ""  # The cell of a figure that a contestant does not have.
_PLOT = Path("images") / "compare.png"
_SPEED = "steps_per_second"
_PANELS = (
    (_SPEED, "training, steps/s (more is better)"),
    ("wall_s", "whole command, s (less is better)"),
    ("peak_pss_mib", "peak memory, MiB (less is better)"),
)


def write(results: Mapping[str, Any], path: Path, titles: Mapping[str, str]) -> str:
    """Writes table, bars and machine into their sections of a document, and draws the plot.

    Args:
      results: See `compare.measure`.
      path: The document; the plot is written to `images/` in its folder.
      titles: The contestants' names in the table, by contestant, in the table's order.

    Returns:
      The text of the sections.
    """
    runs = results["runs"]
    rounds = max(sum("wall_s" in run for run in each) for each in runs.values())
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    machine += f"; {rounds} rounds, medians (minimum to maximum)."
    sections = {}
    if cnn := {name: each for name, each in runs.items() if name.endswith("-cnn")}:
        sections["cnn"] = f"{cnn_table(cnn, titles)}\n{machine}"
    if evaluate := {name: each for name, each in runs.items() if name.endswith("-evaluate")}:
        sections["evaluate"] = f"{evaluate_table(evaluate, titles)}\n{machine}"
    if runs := {n: each for n, each in runs.items() if n not in cnn and n not in evaluate}:
        plot(runs, titles, path.parent / _PLOT)
        sections |= {
            "machine": machine,
            "table": contestants_table(runs, titles),
            "bars": bars_table(runs),
        }
    for name, content in sections.items():
        document.replace_section(path, f"compare: {name}", content)
    return "\n\n".join(sections.values())


def contestants_table(runs: Runs, titles: Mapping[str, str]) -> str:
    """Returns each contestant's figures as a markdown table."""
    header = [
        "",
        "test accuracy",
        "steps/s",
        "ours over it",
        "whole command, s",
        "ours over it",
    ]
    header += ["CPU, s", "peak memory, MiB", "largest process, MiB", "others' cores"]
    rows = []
    for name, title in titles.items():
        each = runs.get(name, ())
        if not each or name in ("loop", "ours-evaluation"):
            continue
        if reason := void_reason(each):
            rows.append([title, f"void: {reason}", *[_EMPTY] * (len(header) - 2)])
            continue
        # The time of the programs that measure the products has no meaning.
        is_command = not name.startswith("products")
        row = [
            title,
            _cell(runs, name, "test_accuracy", ".4f"),
            _cell(runs, name, _SPEED, ",.0f"),
        ]
        row.append(_ratio(runs, name, _SPEED))
        row.append(_cell(runs, name, "wall_s", ".2f") if is_command else _EMPTY)
        row.append(_ratio(runs, name, "wall_s") if is_command else _EMPTY)
        row.append(_cell(runs, name, "cpu_s", ".1f", spread=False) if is_command else _EMPTY)
        for figure in ("peak_pss_mib", "peak_rss_mib"):
            row.append(_cell(runs, name, figure, ",.0f", spread=False))
        row.append(_cell(runs, name, "others_cores", ".2f", spread=False))
        rows.append(row)
    lines = [document.table(header, rows)]
    for name, cores in (("products", "both cores"), ("products-1-core", "one core")):
        if peak := summarize(runs.get(name, ()), "gflops"):
            lines.append(
                f"Peak of a large float32 product in NumPy, {cores}: {peak.median:,.0f} "
                f"GFLOP/s ({peak.minimum:,.0f} to {peak.maximum:,.0f}).\n"
            )
    evaluation = runs.get("ours-evaluation", ())
    first, later = (summarize(evaluation, f"{kind}evaluation_s") for kind in ("first_", ""))
    if first and later:
        lines.append(
            f"An evaluation of the three splits: {later.median:.3f} s; the first, which "
            f"compiles: {first.median:.3f} s.\n"
        )
    return "\n".join(lines)


def cnn_table(runs: Runs, titles: Mapping[str, str]) -> str:
    """Returns the figures of those that train the CNN as a markdown table."""
    header = ["", "test accuracy", "steps/s", "ours over it", "CPU, s", "others' cores"]
    rows = []
    for name, title in titles.items():
        if name not in runs:
            continue
        if reason := void_reason(runs[name]):
            rows.append([title, f"void: {reason}", *[_EMPTY] * (len(header) - 2)])
            continue
        ratio = results_lib.ratio(runs, "ours-cnn", name, _SPEED)
        row = [title, _cell(runs, name, "test_accuracy", ".4f")]
        row.append(_cell(runs, name, _SPEED, ".1f"))
        row.append(_EMPTY if ratio is None else f"{ratio:.2f}")
        row += [_cell(runs, name, "cpu_s", ".0f", spread=False)]
        rows.append([*row, _cell(runs, name, "others_cores", ".2f", spread=False)])
    return document.table(header, rows)


def evaluate_table(runs: Runs, titles: Mapping[str, str]) -> str:
    """Returns the figures of those that evaluate a trained network as a markdown table."""
    header = ["", "whole command, s", "ours over it", "CPU, s", "peak memory, MiB"]
    rows = []
    for name in (name for name in titles if name in runs):
        ratio = results_lib.ratio(runs, "ours-evaluate", name, "wall_s")
        row = [titles[name], _cell(runs, name, "wall_s", ".2f")]
        row.append(_EMPTY if ratio is None else f"{ratio:.2f}")
        row.append(_cell(runs, name, "cpu_s", ".1f", spread=False))
        rows.append([*row, _cell(runs, name, "peak_pss_mib", ",.0f", spread=False)])
    return document.table(header, rows)


def bars_table(runs: Runs) -> str:
    """Returns every bar with its aim and the measured ratio, as a markdown table."""
    rows = []
    for bar in BARS:
        sign = "≥" if bar.at_least else "≤"
        cells = [_verdict(bar, bar.value(runs, ours)) for ours in ("ours", "ours-warm")]
        if bar.what.startswith("the loop"):
            cells[1] = _EMPTY  # It contains no start-up, so a cache changes nothing.
        rows.append([bar.what, f"{sign} {bar.bar:g}", f"{bar.aim or '':}", *cells])
    header = ["ratio of medians", "bar", "aim", "no compile cache", "warm compile cache"]
    return document.table(header, rows)


def _verdict(bar: Bar, value: float | None) -> str:
    if value is None:
        return _EMPTY
    return f"{value:.3g} {'met' if bar.is_met(value) else '**missed**'}"


def _cell(runs: Runs, name: str, figure: str, spec: str, *, spread: bool = True) -> str:
    summary = summarize(runs[name], figure)
    if summary is None:
        return _EMPTY
    median, minimum, maximum = (format(value, spec) for value in summary)
    return f"{median} ({minimum} to {maximum})" if spread else median


def _ratio(runs: Runs, name: str, figure: str) -> str:
    value = results_lib.ratio(runs, "ours", name, figure)
    return _EMPTY if value is None else f"{value:.2f}"


def plot(runs: Runs, titles: Mapping[str, str], path: Path) -> None:
    """Draws a panel for each figure: the medians as bars, every run as a dot."""
    figure, panels = plt.subplots(
        1, len(_PANELS), figsize=(13, 4.2), layout="constrained", sharey=True
    )
    names = [
        name
        for name in titles
        if name in runs
        and name not in ("loop", "ours-evaluation")
        and not void_reason(runs[name])
    ][::-1]
    for panel, (key, label) in zip(panels, _PANELS, strict=True):
        for row, name in enumerate(names):
            if name.startswith("products") and key != _SPEED:
                continue
            summary = summarize(runs[name], key)
            if summary is None:
                continue
            is_limit = name == "import" or name.startswith("products")
            color = (
                _OURS_COLOR
                if name.startswith("ours")
                else _LIMITS_COLOR
                if is_limit
                else _PEERS_COLOR
            )
            panel.barh(row, summary.median, color=color)
            values = [run[key] for run in runs[name] if run.get(key) is not None]
            panel.plot(values, [row] * len(values), ".", color="black", markersize=4)
            panel.annotate(
                f"{summary.median:,.1f}" if key == "wall_s" else f"{summary.median:,.0f}",
                (summary.maximum, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        panel.set_xlabel(label)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), [titles[name].replace("*", "") for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)

"""Measures how the cost grows with batch size, width, steps per call and examples.

    python -m benchmarks.growth [--from RESULTS]

Times `train_steps` for all points in turns. Writes the results to a JSON file, and from it
tables and plots into docs/performance.md.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import document, step_cost

_HERE = Path(__file__).parent
_BATCH_SIZES = (1, 4, 16, 64, 100, 256, 1024, 4096, 8192)
_WIDTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_STEPS_PER_CALL = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_EXAMPLES = (1_000, 10_000, 60_000, 250_000, 500_000, 1_000_000)
_COLORS = ("#0072b2", "#d55e00", "#009e73")  # Okabe-Ito.


def main() -> None:
    """Measures, or reads earlier results, and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="duration of a timing")
    parser.add_argument(
        "--results",
        type=Path,
        default=_HERE / "results" / "growth.json",
        help="JSON file to write",
    )
    parser.add_argument("--from", dest="source", type=Path, help="only report these results")
    parser.add_argument(
        "--document",
        type=Path,
        default=_HERE.parent / "docs" / "performance.md",
        help="document with the section to replace",
    )
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of is not None:
        print(json.dumps(peak_memory_mib(args.memory_of)))
        return
    if args.source:
        results = json.loads(args.source.read_text())
    else:
        results = measure(args.rounds, args.seconds)
        args.results.parent.mkdir(parents=True, exist_ok=True)
        args.results.write_text(json.dumps(results, indent=1))
    content = report(results, args.document.parent)
    document.replace_section(args.document, "growth", content)
    print(content)


def measure(
    rounds: int,
    seconds: float,
    batch_sizes: Sequence[int] = _BATCH_SIZES,
    widths: Sequence[int] = _WIDTHS,
    steps_per_call: Sequence[int] = _STEPS_PER_CALL,
    examples: Sequence[int] = _EXAMPLES,
    *,
    num_examples: int = 55_000,
    product_size: int = 2048,
    array_bytes: int = 1 << 28,
) -> dict[str, Any]:
    """Measures the points of all tables.

    Args:
      rounds: Number of timings of each point.
      seconds: Approximate duration of a timing.
      batch_sizes: Batch sizes for the tutorial's network.
      widths: Widths of the two hidden layers, for the tutorial's batch size.
      steps_per_call: Steps per call, for the tutorial's job.
      examples: Numbers of examples for which the peak memory is measured.
      num_examples: Number of training examples for all other points.
      product_size: Size of the matrices whose product measures the peak FLOP/s.
      array_bytes: Size of the array that measures the memory's speed.

    Returns:
      `peak_flops` and `peak_bytes`, both per second; `batch_size`, `width` and
      `steps_per_call`: lists of points with `value`, `seconds_per_step`, `batch` and `widths`;
      `examples`: a list of points with `value` and `peak_mib`.
    """
    # First: a process inherits the peak of the one that starts it, which is still small.
    memory = [{"value": n, "peak_mib": _measure_peak_memory(n)} for n in examples]
    from benchmarks import throughput

    tutorial = throughput.tutorial_config()
    jobs: dict[tuple[str, int], dict[str, Any]] = {
        ("batch_size", size): {"batch_size": size} for size in batch_sizes
    }
    jobs |= {("width", width): {"hidden_sizes": (width, width)} for width in widths}
    jobs |= {("steps_per_call", steps): {"steps_per_call": steps} for steps in steps_per_call}
    data = throughput.random_examples(num_examples)
    functions, points = {}, {}
    for key, fields in jobs.items():
        config = throughput.tutorial_config(**fields)
        shape = (784, *config.hidden_sizes, 10)
        if "steps_per_call" not in fields:
            # Fewer large steps per call: a call would take seconds.
            work = step_cost.flops(config.batch_size, shape)
            config.steps_per_call = max(1, min(tutorial.steps_per_call, int(1e10 / work)))
        functions[key] = throughput.repeat_training(config, data)
        points[key] = (config.steps_per_call, config.batch_size, shape)
    times = throughput.seconds_per_call(functions, rounds=rounds, seconds=seconds)
    results: dict[str, Any] = {
        "examples": memory,
        "peak_flops": throughput.product_flops_per_second(product_size),
        "peak_bytes": throughput.bytes_per_second(array_bytes),
    }
    for (kind, value), call_seconds in times.items():
        steps, batch_size, shape = points[kind, value]
        results.setdefault(kind, []).append(
            {
                "value": value,
                "seconds_per_step": call_seconds / steps,
                "batch": batch_size,
                "widths": shape,
            }
        )
    return results


def _measure_peak_memory(num_examples: int) -> float:
    command = [sys.executable, "-m", "benchmarks.growth", "--memory-of", str(num_examples)]
    output = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=_HERE.parent
    )
    return float(json.loads(output.stdout))


def peak_memory_mib(num_examples: int) -> float:
    """Trains on a number of examples; returns the process's largest resident set, in MiB."""
    import numpy as np

    from benchmarks import throughput
    from mnist_jax.parallel import sharding

    # Ones, because the kernel allocates no memory for zeros.
    image, label = np.ones((num_examples, 28, 28), np.uint8), np.ones(num_examples, np.int32)
    examples = sharding.put_replicated({"image": image, "label": label})
    throughput.repeat_training(throughput.tutorial_config(), examples)(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(results: Mapping[str, Any], folder: Path) -> str:
    """Draws the plots into `folder`/images; returns the section's text."""
    peak_flops, peak_bytes = results["peak_flops"], results["peak_bytes"]
    parts = [
        f"Measured peaks of XLA on this machine: {peak_flops / 1e9:,.0f} GFLOP/s (a float32 "
        f"product of 2,048 x 2,048), {peak_bytes / 1e9:,.1f} GB/s (reading and writing an "
        "array).\n"
    ]
    titles = {
        "batch_size": "Batch size (784-128-32-10)",
        "width": "Hidden width w (784-w-w-10, batches of 100)",
        "steps_per_call": "Steps per call (784-128-32-10, batches of 100)",
    }
    for kind, title in titles.items():
        rows = []
        for point in results[kind]:
            seconds, batch_size = point["seconds_per_step"], point["batch"]
            speed = step_cost.flops(batch_size, point["widths"]) / seconds
            rows.append(
                [
                    f"{point['value']:,}",
                    f"{1 / seconds:,.0f}" if seconds < 0.1 else f"{1 / seconds:,.2f}",
                    f"{1e6 * seconds / batch_size:,.2f}",
                    f"{speed / 1e9:,.1f}",
                    f"{100 * speed / peak_flops:.0f} %",
                ]
            )
        header = [title, "steps/s", "µs per example", "GFLOP/s", "share of the peak"]
        parts.append(document.table(header, rows))
    rows = [
        [
            f"{point['value']:,}",
            f"{point['value'] * 788 / 2**20:,.0f}",
            f"{point['peak_mib']:,.0f}",
        ]
        for point in results["examples"]
    ]
    parts.append(
        document.table(["Examples", "their size, MiB", "peak of the process, MiB"], rows)
    )
    _plot(results, folder / "images")
    parts.append(
        "![Cost against batch size, width and steps per call](images/growth.png)\n\n"
        "![Roofline](images/roofline.png)\n\n"
        "The roofline divides the FLOPs of a step's products by the bytes that it moves at "
        "least (`benchmarks/step_cost.py`). A point may lie above the memory's slope, because "
        "values that stay in a cache from one step to the next do not come from memory.\n"
    )
    return "\n".join(parts)


def _plot(results: Mapping[str, Any], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("batch_size", "width", "steps_per_call")
    figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for panel, kind, color in zip(panels, kinds, _COLORS, strict=True):
        points = results[kind]
        panel.loglog(
            [point["value"] for point in points],
            [1e6 * point["seconds_per_step"] for point in points],
            "o-",
            color=color,
        )
        panel.set_xlabel(kind.replace("_", " "))
        panel.set_ylabel("µs per step")
        panel.grid(alpha=0.3)
    panels[-1].set_yscale("linear")
    panels[-1].set_ylim(bottom=0)
    figure.savefig(folder / "growth.png", dpi=120)
    plt.close(figure)

    peak_flops, peak_bytes = results["peak_flops"], results["peak_bytes"]
    figure, panel = plt.subplots(figsize=(8, 5), layout="constrained")
    # Labels below one curve and above the other: the curves are close together.
    for kind, color, style, side in (
        ("batch_size", _COLORS[0], "o-", -13),
        ("width", _COLORS[1], "s--", 7),
    ):
        shapes = [(point["batch"], point["widths"]) for point in results[kind]]
        work = [step_cost.flops(*shape) for shape in shapes]
        intensities = [
            flops / step_cost.bytes_moved(*shape)
            for flops, shape in zip(work, shapes, strict=True)
        ]
        speeds = [
            flops / point["seconds_per_step"] / 1e9
            for flops, point in zip(work, results[kind], strict=True)
        ]
        panel.loglog(intensities, speeds, style, color=color, label=kind.replace("_", " "))
        for point, x, y in zip(results[kind], intensities, speeds, strict=True):
            panel.annotate(
                f"{point['value']:,}",
                (x, y),
                xytext=(0, side),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=color,
            )
    left, right = panel.get_xlim()
    ridge = peak_flops / peak_bytes
    xs = [left, ridge, max(right, 2 * ridge)]
    panel.plot(
        xs, [min(x * peak_bytes, peak_flops) / 1e9 for x in xs], "k", label="measured peaks"
    )
    panel.set_xlim(left, xs[-1])
    panel.set_xlabel("arithmetic intensity, FLOP per byte")
    panel.set_ylabel("GFLOP/s")
    panel.grid(alpha=0.3)
    panel.legend()
    figure.savefig(folder / "roofline.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

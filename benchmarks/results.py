"""Evaluates the results of `compare`: medians, void rows, ratios, bars."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Run = Mapping[str, Any]  # The figures of a run by name, as in the results file.
Runs = Mapping[str, Sequence[Run]]  # By contestant, in the order of the rounds.

# The test accuracy by job, and how far a contestant's may be from it; outside of this range it
# trains something else: the mean, and four sample standard deviations. The tutorial's after
# 2,000 steps, over 12 seeds; that of `configs/cnn.py` after 500, over 8 seeds of PyTorch's.
REFERENCE_ACCURACIES = {"tutorial": (0.9019, 4 * 0.0031), "cnn": (0.9866, 4 * 0.0011)}


class Summary(NamedTuple):
    """The summary of a figure over all runs."""

    median: float
    minimum: float
    maximum: float


def summarize(runs: Sequence[Run], figure: str) -> Summary | None:
    """Returns the summary of a figure over the runs that have it; None if no run has it."""
    values = [run[figure] for run in runs if run.get(figure) is not None]
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values))


def void_reason(runs: Sequence[Run]) -> str | None:
    """Returns why a contestant's runs are void; None if they are valid.

    They are void if a run failed, or if a test accuracy is not that of its job.
    """
    for run in runs:
        if "error" in run:
            return "failed"
        accuracy = run.get("test_accuracy")
        if accuracy is None:
            continue
        reference, tolerance = REFERENCE_ACCURACIES[run.get("job", "tutorial")]
        if not abs(accuracy - reference) <= tolerance:
            return f"test accuracy {accuracy:.4f}"
    return None


def ratio(runs: Runs, ours: str, other: str, figure: str) -> float | None:
    """Returns the ratio of two contestants' medians; None if one is void or missing."""
    if any(void_reason(runs.get(name, ())) for name in (ours, other)):
        return None
    mine, theirs = (summarize(runs.get(name, ()), figure) for name in (ours, other))
    return mine.median / theirs.median if mine and theirs else None


@dataclasses.dataclass(frozen=True)
class Bar:
    """The required value of a ratio.

    Attributes:
      what: The ratio in words.
      value: Called with the runs and the name of the trainer's contestant; returns the ratio,
        or None if it was not measured.
      bar: The required value.
      aim: The desired value.
      at_least: True if larger values are better.
    """

    what: str
    value: Callable[[Runs, str], float | None]
    bar: float
    aim: float | None
    at_least: bool

    def is_met(self, value: float) -> bool:
        """Returns whether the ratio reaches the bar."""
        return value >= self.bar if self.at_least else value <= self.bar


def _speed_over(other: str) -> Callable[[Runs, str], float | None]:
    return lambda runs, ours: ratio(runs, ours, other, "steps_per_second")


def _wall_over(other: str) -> Callable[[Runs, str], float | None]:
    return lambda runs, ours: ratio(runs, ours, other, "wall_s")


def _speed_over_products(runs: Runs, ours: str) -> float | None:
    """Uses the faster one of NumPy's two measurements: on all cores and on one."""
    ratios = [_speed_over(name)(runs, ours) for name in ("products", "products-1-core")]
    return min((value for value in ratios if value is not None), default=None)


def _loop_over_steps(runs: Runs, ours: str) -> float | None:
    summary = summarize(runs.get("loop", ()), "ratio")
    return summary.median if summary else None


BARS = (
    Bar("training steps/s over tf.compat.v1", _speed_over("tf1"), 2.5, 4, True),
    Bar("training steps/s over PyTorch eager", _speed_over("torch"), 2.0, 3, True),
    Bar("training steps/s over the NumPy products", _speed_over_products, 0.7, 1, True),
    Bar("whole command over tf.compat.v1, wall", _wall_over("tf1"), 0.50, 0.33, False),
    Bar("whole command over PyTorch eager, wall", _wall_over("torch"), 0.80, 0.60, False),
    Bar("whole command over the bare import", _wall_over("import"), 3.5, 2.5, False),
    Bar("the loop over `train_steps` alone, steps/s", _loop_over_steps, 0.97, None, True),
    Bar(
        "peak memory over PyTorch eager's",
        lambda runs, ours: ratio(runs, ours, "torch", "peak_pss_mib"),
        1.5,
        1.0,
        False,
    ),
)

"""What `compare` measured, and what follows from it: medians, void rows, ratios, bars."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Run = Mapping[str, Any]  # A run's figures by name, as in the results file.
Runs = Mapping[str, Sequence[Run]]  # The runs of each contestant, in the order of the rounds.

# The tutorial's test accuracy after 2,000 steps over 12 seeds: mean, and four of its sample
# standard deviations. A contestant outside did another job.
REFERENCE_ACCURACY, ACCURACY_TOLERANCE = 0.9019, 4 * 0.0031


class Summary(NamedTuple):
    """A figure over all runs."""

    median: float
    minimum: float
    maximum: float


def summarize(runs: Sequence[Run], figure: str) -> Summary | None:
    """Returns a figure's summary over the runs that have it, None where none has."""
    values = [run[figure] for run in runs if run.get(figure) is not None]
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values))


def void_reason(runs: Sequence[Run]) -> str | None:
    """Returns why a contestant's row does not count, None where it does.

    It does not where a run failed, or its test accuracy was not the tutorial's.
    """
    for run in runs:
        if "error" in run:
            return "failed"
        accuracy = run.get("test_accuracy")
        if accuracy is not None and not (
            abs(accuracy - REFERENCE_ACCURACY) <= ACCURACY_TOLERANCE
        ):
            return f"test accuracy {accuracy:.4f}"
    return None


def ratio(runs: Runs, ours: str, other: str, figure: str) -> float | None:
    """Returns the ratio of two contestants' medians, None where one is void or lacking."""
    if any(void_reason(runs.get(name, ())) for name in (ours, other)):
        return None
    mine, theirs = (summarize(runs.get(name, ()), figure) for name in (ours, other))
    return mine.median / theirs.median if mine and theirs else None


@dataclasses.dataclass(frozen=True)
class Bar:
    """What is demanded of a ratio.

    Attributes:
      what: The ratio in words.
      value: Takes the runs and the name of our contestant; None where it can't be had.
      bar: Must be reached.
      aim: Is hoped for.
      at_least: Whether more is better.
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
    """Over those of NumPy with the number of cores that suits it better."""
    ratios = [_speed_over(name)(runs, ours) for name in ("products", "products-1-core")]
    return min((value for value in ratios if value is not None), default=None)


def _evaluation_share(runs: Runs, ours: str) -> float | None:
    """The later evaluations' time, which do not compile, over the command's."""
    evaluation = summarize(runs.get("ours-evaluation", ()), "evaluation_s")
    wall = summarize(runs.get(ours, ()), "wall_s")
    return evaluation.median / wall.median if evaluation and wall else None


def _loop_over_steps(runs: Runs, ours: str) -> float | None:
    summary = summarize(runs.get("loop", ()), "ratio")
    return summary.median if summary else None


BARS = (
    Bar("training steps/s over tf.compat.v1", _speed_over("tf1"), 2.5, 4, True),
    Bar("training steps/s over PyTorch eager", _speed_over("torch"), 2.0, 3, True),
    Bar("training steps/s over the NumPy products", _speed_over_products, 0.75, 1, True),
    Bar("whole command over tf.compat.v1, wall", _wall_over("tf1"), 0.50, 0.33, False),
    Bar("whole command over PyTorch eager, wall", _wall_over("torch"), 0.80, 0.60, False),
    Bar("whole command over the bare import", _wall_over("import"), 3.5, 2.5, False),
    Bar(
        "an evaluation of 70,000 images, of the whole command",
        _evaluation_share,
        0.03,
        None,
        False,
    ),
    Bar("the loop over `train_steps` alone, steps/s", _loop_over_steps, 0.97, None, True),
    Bar(
        "peak memory over PyTorch eager's",
        lambda runs, ours: ratio(runs, ours, "torch", "peak_pss_mib"),
        1.5,
        1.0,
        False,
    ),
)

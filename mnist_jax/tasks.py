"""What is learned: the loss, the metrics, which of them is the best, what a person reads.

A task is a value that travels with the run, as a static part of its state: a frozen dataclass
of Python values and tuples. A subclass with `loss` and `metrics` alone is a whole task:

    class Regression(Task):
        best = "mae", "min"

        def loss(self, outputs, batch):
            return (outputs[:, 0] - batch["label"]) ** 2

        def metrics(self, outputs, batch):
            return {"mae": abs(outputs[:, 0] - batch["label"])}

`outputs` are the model's, `float32[batch, num_outputs]`; `batch` has `image` and `label`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mnist_jax.data.datasets import Dataset
from mnist_jax.runtime import config as config_lib

Batch = Mapping[str, jax.Array]  # `image`, [batch, *input.shape]; `label`, [batch, ...]

_TITLES = {"train": "Training", "validation": "Validation", "test": "Test"}


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
      best: A metric, or `loss`, and whether its "max" or "min" is the best. Its value on the
        validation split decides which checkpoint is the best, and when training stops early.
      figures: The names of the figures that show a result; see `reporting.figures`.
    """

    best: ClassVar[tuple[str, str]] = ("loss", "min")
    figures: ClassVar[tuple[str, ...]] = ("learning_curves", "first_layer")

    def check(self, dataset: Dataset) -> None:
        """Raises ValueError if the task can't be learned from the dataset."""

    def num_outputs(self, dataset: Dataset) -> int:
        """Returns the number of outputs that a model should have for each example."""
        return math.prod(dataset.examples.label.shape[1:])

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Returns the loss of each example, `float32[batch]`; training minimises its mean."""
        raise NotImplementedError

    def metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Returns numbers of each example, `[batch]`; reports have their means by name."""
        return {}

    def summarize(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        """Returns what is no mean, such as a count or a root, from the sums of the metrics."""
        return {}

    def combine(self, outputs: jax.Array) -> jax.Array:
        """Returns the outputs of a committee; `outputs` are its members', `[members, ...]`."""
        return outputs.mean(axis=0)

    def describe(self, outputs: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns for each example its prediction by JSON values, and as `text` for people."""
        numbers = np.asarray(outputs).reshape(len(outputs), -1).tolist()
        return [{"text": " ".join(f"{x:.4f}" for x in row), "outputs": row} for row in numbers]

    def report(self, split: str, dataset: str, result: Mapping[str, Any]) -> str:
        """Returns the printed lines of a split's result; see `eval_step.evaluate`.

        They name any dataset but the tutorial's own. Of several members they have the mean ±
        the (sample) standard deviation, and a line of their committee.
        """
        own, mark = dict(result), "committee_"
        committee = {n.removeprefix(mark): own.pop(n) for n in result if n.startswith(mark)}
        title = f"{_TITLES[split]} Data Eval:" + f" [{dataset}]" * (dataset != "mnist")
        text = f"{title}\n  Num examples: {own.pop('num_examples')}  {self.format(own)}"
        if committee:
            text += f" ({len(own['loss'])} seeds)\n  Their committee: {self.format(committee)}"
        return text

    def format(self, result: Mapping[str, Any]) -> str:
        """Formats the numbers of a result in one line, the loss at its end."""
        names = sorted(result, key=lambda name: name == "loss")
        return "  ".join(f"{name}: {format_spread(result[name], '.4f')}" for name in names)


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One class for each example: the tutorial's task.

    The model's outputs are logits. The loss is the softmax cross-entropy in nats, `accuracy`
    the tutorial's "Precision @ 1".
    """

    label_smoothing: float = 0.0

    best = "accuracy", "max"
    figures = "calibration", "confusion_matrix", "first_layer", "learning_curves", "mistakes"

    def check(self, dataset: Dataset) -> None:
        """Requires integer labels of one class for each example."""
        label, classes = dataset.examples.label, len(dataset.class_names)
        if label.dtype != np.int32 or label.ndim != 1:
            raise ValueError(
                f"labels are {label.dtype}{[*label.shape]}, expected an integer each"
            )
        if not classes:
            found = f"labels from {label.min()} to {label.max()}"
            expected = "classes 0, 1, 2, ..., each in training, or names of the classes"
            raise ValueError(f"{found}, expected {expected}")
        if label.min() < 0 or label.max() >= classes:
            found = f"labels from {label.min()} to {label.max()}"
            raise ValueError(f"{found}, expected 0 to {classes - 1}: one of {classes} classes")

    def num_outputs(self, dataset: Dataset) -> int:
        """Returns the number of classes."""
        return len(dataset.class_names)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Returns the cross-entropy; with `label_smoothing` that of smoothed labels."""
        if not self.label_smoothing:  # The other form rounds differently.
            return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["label"])
        one_hot = jax.nn.one_hot(batch["label"], outputs.shape[-1])
        smoothed = optax.smooth_labels(one_hot, self.label_smoothing)
        return optax.softmax_cross_entropy(outputs, smoothed)

    def metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Returns whether the most probable class is the right one."""
        return {"accuracy": outputs.argmax(axis=-1) == batch["label"]}

    def summarize(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        """Returns the number of right classes."""
        return {"num_correct": round(sums["accuracy"])} if "accuracy" in sums else {}

    def combine(self, outputs: jax.Array) -> jax.Array:
        """Returns the logarithms of the mean of the members' probabilities."""
        log_probabilities = jax.nn.log_softmax(outputs)
        return jax.nn.logsumexp(log_probabilities, axis=0) - math.log(len(outputs))

    def describe(self, outputs: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the class; in the text also up to two others of at least 1 %."""
        rows = []
        for p in np.asarray(jax.nn.softmax(jnp.asarray(outputs))):
            label, *others = np.argsort(-p, kind="stable")[:3].tolist()
            texts = [f"{class_names[i]} ({p[i]:.1%})" for i in others if p[i] >= 0.01]
            text = f"{class_names[label]} ({p[label]:.1%})" + ", or " * bool(texts)
            row = {"text": text + ", ".join(texts), "label": label, "class": class_names[label]}
            rows.append(row | {"probabilities": p.tolist()})
        return rows

    def format(self, result: Mapping[str, Any]) -> str:
        """Begins with the tutorial's words, and leaves out the loss."""
        others = {
            n: x for n, x in result.items() if n not in ("num_correct", "accuracy", "loss")
        }
        words = []
        if "accuracy" in result:
            words += [f"Num correct: {format_spread(result['num_correct'], '.0f')}"]
            words += [f"Precision @ 1: {format_spread(result['accuracy'], '.4f')}"]
        return "  ".join([*words, super().format(others)] if others else words)


TASKS = {"classification": Classification}


def create_task(config: ConfigDict, *, is_saved: bool = False) -> Task:
    """Returns the task that the config names; see `config.create`."""
    return config_lib.create(config, "task", TASKS, Task, is_saved=is_saved)


def rate(task: Task, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a result's value by the best metric, or None; of several members the mean."""
    (name, mode), value = task.best, float(np.mean(result[task.best[0]]))
    return {"name": name, "mode": mode, "value": value} if math.isfinite(value) else None


def update_best(
    best: Mapping[str, Any] | None, step: int, rating: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Returns the best evaluation so far, with the number of `evals` since."""
    if best:
        gain = rating["value"] - best["value"]
        if (gain if rating["mode"] == "max" else -gain) <= 0:
            return {**best, "evals": best["evals"] + 1}
    return {**rating, "step": step, "evals": 0}


def is_last(config: ConfigDict, step: int, best: Mapping[str, Any] | None) -> bool:
    """Returns whether training ends with this step: it is the last, or no better one came."""
    patience = config.early_stopping_evals
    is_early = best and patience and best["evals"] >= patience
    return bool(is_early) or step >= config.num_train_steps


def format_spread(value: Any, spec: str) -> str:
    """Formats a number, or of several members' the mean ± the (sample) standard deviation."""
    spread = f" ± {np.std(value, ddof=1):{spec}}" if np.ndim(value) else ""
    return f"{np.mean(value):{spec}}{spread}"

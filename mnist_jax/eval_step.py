"""Metrics, an evaluation step, and a scan over all batches. Pure functions."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax
import jax
import numpy as np
import optax
from clu import metrics as clu_metrics

from mnist_jax.parallel.sharding import replicate, shard_batch
from mnist_jax.train_step import ApplyFn, Batch, Params


class SplitResult(NamedTuple):
    """The results of a model on every example of a split.

    Attributes:
      num_examples: Size of the split.
      num_correct: Number of correct predictions.
      accuracy: The tutorial's "Precision @ 1".
      loss: Mean cross-entropy, in nats.
    """

    num_examples: int
    num_correct: int
    accuracy: float
    loss: float


@flax.struct.dataclass
class EvalMetrics(clu_metrics.Collection):
    """Masked sums over the examples seen so far; `compute()` divides them once."""

    accuracy: clu_metrics.Accuracy
    loss: clu_metrics.Average.from_output("loss")  # type: ignore[valid-type]


@functools.partial(jax.jit, static_argnames="apply_fn")
def eval_step(
    params: Params, batch: Batch, *, apply_fn: ApplyFn
) -> tuple[EvalMetrics, jax.Array]:
    """Sums loss and correct predictions over a batch.

    Args:
      params: The model's parameters.
      batch: `image`: `uint8[batch, 28, 28]`, `label`: `int32[batch]`, `mask`: `bool[batch]`,
        False for padding.
      apply_fn: The model's `apply`.

    Returns:
      Metrics to `merge` with those of other batches, and the logits,
      `float32[batch, num_classes]`.
    """
    batch = shard_batch(batch)
    logits = apply_fn({"params": params}, batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    metrics = EvalMetrics.single_from_model_output(
        logits=logits, labels=batch["label"], loss=losses, mask=batch["mask"]
    )
    return metrics, logits


@functools.partial(jax.jit, static_argnames="apply_fn")
def eval_steps(
    params: Params,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    *,
    apply_fn: ApplyFn,
) -> tuple[EvalMetrics, jax.Array]:
    """Evaluates many batches in one device call: `eval_step` in a scan without a carry.

    Args:
      params: The model's parameters.
      images: All examples, `uint8[num_examples, 28, 28]`.
      labels: `int32[num_examples]`.
      indices: The examples of each batch, `int32[batches, batch]`; -1 for padding.
      apply_fn: The model's `apply`.

    Returns:
      The metrics and logits of `eval_step`, each with a leading dimension `batches`.
    """

    def evaluate_batch(rows: jax.Array) -> tuple[EvalMetrics, jax.Array]:
        batch = {"image": images[rows], "label": labels[rows], "mask": rows >= 0}
        return eval_step(params, batch, apply_fn=apply_fn)

    return replicate(jax.lax.map(evaluate_batch, indices))


def evaluate(
    params: Params,
    apply_fn: ApplyFn,
    examples: tuple[jax.typing.ArrayLike, jax.typing.ArrayLike],
    eval_indices: Mapping[str, np.ndarray],
) -> tuple[dict[str, SplitResult], dict[str, np.ndarray]]:
    """Evaluates every example of some splits exactly once, in one device call.

    Args:
      params: The model's parameters.
      apply_fn: The model's `apply`.
      examples: Images and labels of all splits, on the devices.
      eval_indices: The batches by split; see `input_pipeline.eval_indices`.

    Returns:
      The results by split, and by split the logits of each example, in order,
      `float32[num_examples, num_classes]`.
    """
    indices = np.concatenate(list(eval_indices.values()))
    sums, rows = jax.device_get(eval_steps(params, *examples, indices, apply_fn=apply_fn))
    results, logits, start = {}, {}, 0
    for split, split_indices in eval_indices.items():
        batches = slice(start, start + len(split_indices))
        start = batches.stop
        logits[split] = rows[batches][split_indices >= 0]
        total = jax.tree.map(lambda sums, batches=batches: sums[batches].sum(), sums)
        values = total.compute()
        results[split] = SplitResult(
            num_examples=int(total.accuracy.count),
            num_correct=int(total.accuracy.total),
            accuracy=float(values["accuracy"]),
            loss=float(values["loss"]),
        )
    return results, logits

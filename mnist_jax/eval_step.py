"""Metrics, an evaluation step, and the evaluation of splits. Pure functions."""

import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np
import optax
from clu import metrics as clu_metrics

from mnist_jax.parallel.sharding import replicate, shard_batch
from mnist_jax.train_step import ApplyFn, Variables

Results = dict[str, dict[str, Any]]  # By split and name: numbers, or arrays of members.


@flax.struct.dataclass
class EvalMetrics(clu_metrics.Collection):
    """Masked sums over the examples seen so far; `compute()` divides them once.

    Each flows by its name into the journal, TensorBoard and the printed results. `accuracy` is
    the tutorial's "Precision @ 1", `loss` the mean cross-entropy in nats.
    """

    accuracy: clu_metrics.Accuracy
    loss: clu_metrics.Average.from_output("loss")  # type: ignore[valid-type]


@functools.partial(jax.jit, static_argnames="apply_fn")
def eval_step(
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    *,
    apply_fn: ApplyFn,
) -> tuple[EvalMetrics, jax.Array]:
    """Sums the metrics over the examples `indices`, `int32[batch]`; -1 for padding.

    `images`, `uint8[num_examples, *image_shape]`, and `labels`, `int32[num_examples]`, are
    those of all examples.

    Returns:
      Metrics to `merge` with those of other batches, and the logits,
      `float32[batch, num_classes]`.
    """
    batch = shard_batch(
        {"image": images[indices], "label": labels[indices], "mask": indices >= 0}
    )
    logits = apply_fn(variables, batch["image"], train=False)
    metrics = EvalMetrics.single_from_model_output(
        logits=logits,
        labels=batch["label"],
        loss=optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
        mask=batch["mask"],
    )
    return replicate((metrics, logits))


def evaluate(
    variables: Variables,
    apply_fn: ApplyFn,
    examples: tuple[jax.typing.ArrayLike, jax.typing.ArrayLike],
    eval_indices: Mapping[str, np.ndarray],
) -> tuple[Results, dict[str, np.ndarray]]:
    """Evaluates every example of some splits exactly once.

    `examples` are the images and labels of all splits, on the devices; `eval_indices` the
    batches by split, as of `input_pipeline.eval_indices`.

    Returns:
      The metrics by split, with the counts `num_examples` and `num_correct`; and by split the
      logits of each example, in order, `float32[num_examples, num_classes]`.
    """
    step = functools.partial(eval_step, apply_fn=apply_fn)
    results, logits = {}, {}
    for split, batches in eval_indices.items():
        # Each result is read before the next batch is dispatched: of several programs with
        # collectives, queued on virtual CPU devices, one can wait for a thread for ever.
        outputs = [jax.device_get(step(variables, *examples, indices)) for indices in batches]
        metrics, rows = zip(*outputs, strict=True)
        logits[split] = np.concatenate(rows)[batches.ravel() >= 0]
        total = jax.tree.map(lambda *sums: np.sum(sums), *metrics)
        counts = {"num_examples": total.accuracy.count, "num_correct": total.accuracy.total}
        values = {name: float(value) for name, value in total.compute().items()}
        results[split] = {name: int(count) for name, count in counts.items()} | values
    return results, logits

"""An evaluation step, and the evaluation of splits. Pure functions."""

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mnist_jax import members
from mnist_jax.input_pipeline import Source, take
from mnist_jax.parallel.sharding import replicate, shard_batch
from mnist_jax.tasks import Batch, Task
from mnist_jax.train_step import ApplyFn, Variables

Results = dict[str, dict[str, Any]]  # By split and name: numbers, or arrays of members.


@functools.partial(jax.jit, static_argnames=("apply_fn", "task", "num_members"))
def eval_step(
    variables: Variables,
    examples: Batch | None,
    rows: Any,
    *,
    apply_fn: ApplyFn,
    task: Task,
    num_members: int = 1,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Computes the loss and the metrics of each example of a batch.

    Args:
      variables: Of the model; of several members with a leading dimension `members`.
      examples: All examples, or None; see `input_pipeline`.
      rows: The indices of the batch's, `int32[batch]`, or without `examples` the batch.
      apply_fn: The model's.
      task: What it has learned.
      num_members: Number of members.

    Returns:
      The values, `[batch]`, or of several members `[members, batch]`, and then their
      committee's too, whose names begin with `committee_`; and the (committee's) outputs.
    """
    batch = shard_batch(take(examples, rows))

    def values(outputs: jax.Array) -> dict[str, jax.Array]:
        return {**task.metrics(outputs, batch), "loss": task.loss(outputs, batch)}

    each, outputs = members.apply(apply_fn, task, variables, batch["image"], num_members)
    if num_members == 1:
        return replicate((values(each), outputs))
    committee = {f"committee_{name}": value for name, value in values(outputs).items()}
    return replicate(({**jax.lax.map(values, each), **committee}, outputs))


def evaluate(
    variables: Variables,
    apply_fn: ApplyFn,
    task: Task,
    source: Source,
    eval_indices: Mapping[str, np.ndarray],
    *,
    num_members: int = 1,
    keep: Collection[str] = (),
) -> tuple[Results, dict[str, np.ndarray]]:
    """Evaluates every example of some splits exactly once.

    `eval_indices` are the batches by split, as of `input_pipeline.eval_indices`; `keep` the
    splits whose outputs are returned.

    Returns:
      By split `num_examples`, the means of the loss and the metrics, and what
      `Task.summarize` adds; of several members as arrays `[members]`, and then their
      committee's by names that begin with `committee_`. And by split the outputs of each
      example, in order, `[num_examples, ...]`.
    """
    step = functools.partial(eval_step, apply_fn=apply_fn, task=task, num_members=num_members)

    def read_all(batches: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], jax.Array]]:
        """Reads each result while the source reads the rows of the next batch."""
        running = None
        for examples, rows in map(source.feed, batches):
            # Before the next call: of several programs with collectives, queued on virtual
            # CPU devices, one can wait for a thread for ever.
            if running:
                yield jax.device_get(running[0]), running[1]
            running = step(variables, examples, rows)
        if running:
            yield jax.device_get(running[0]), running[1]

    results, outputs = {}, {}
    for split, batches in eval_indices.items():
        values, kept = [], []
        for of_batch, its_outputs in read_all(batches):
            values.append(of_batch)
            kept += [jax.device_get(its_outputs)] if split in keep else []
        is_real = batches.ravel() >= 0
        columns: dict[str, np.ndarray] = {
            name: np.concatenate([of_batch[name] for of_batch in values], axis=-1)[..., is_real]
            for name in values[0]
        }
        results[split] = summarize(task, columns)
        if split in keep:
            outputs[split] = np.concatenate(kept)[is_real]
    return results, outputs


def summarize(task: Task, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns a split's result from the values of its examples, `[..., num_examples]`."""
    count = columns["loss"].shape[-1]
    sums: dict[str, Any] = {
        name: column.sum(axis=-1, dtype=float) for name, column in columns.items()
    }

    def divide(sums: Mapping[str, float]) -> dict[str, float]:
        return {name: float(x) / count for name, x in sums.items()} | task.summarize(
            sums, count
        )

    if not sums["loss"].ndim:
        return {"num_examples": count, **divide(sums)}
    mark = "committee_"
    own = {name: x for name, x in sums.items() if not name.startswith(mark)}
    each = [divide({name: x[k] for name, x in own.items()}) for k in range(len(own["loss"]))]
    committee = divide({n.removeprefix(mark): sums[n] for n in sums.keys() - own.keys()})
    result = {name: np.array([one[name] for one in each]) for name in each[0]}
    result |= {f"{mark}{name}": x for name, x in committee.items()}
    return {"num_examples": count, **result}

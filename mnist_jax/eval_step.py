"""An evaluation step, and the evaluation of splits. Pure functions."""

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
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
    num_members: int,
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
      The values, `[batch]`, or of several members and their committee `[members + 1, batch]`;
      and the (committee's) outputs.
    """
    batch = shard_batch(take(examples, rows))

    def values(outputs: jax.Array) -> dict[str, jax.Array]:
        return {**task.metrics(outputs, batch), "loss": task.loss(outputs, batch)}

    if num_members == 1:
        outputs = apply_fn(variables, batch["image"], train=False)
        return replicate((values(outputs), outputs))
    each = members.apply_each(apply_fn, variables, batch["image"])
    committee = task.combine(each)
    every = jnp.concatenate([each, committee[None]])
    return replicate((jax.lax.map(values, every), committee))


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

    def read_all(batches: np.ndarray, is_kept: bool) -> Iterator[Any]:
        running: Any = None
        for indices in (*batches, None):
            # While the device computes, the source reads the rows of the next batch.
            following = None if indices is None else source.feed(indices)
            if running:
                # Before the next call: of several programs with collectives, queued on
                # virtual CPU devices, one can wait for a thread for ever.
                yield jax.device_get(running if is_kept else running[:1])
            if following:
                running = step(variables, *following)

    results, outputs = {}, {}
    for split, batches in eval_indices.items():
        values, *kept = _stack(read_all(batches, split in keep), len(batches))
        count = np.count_nonzero(batches >= 0)
        columns = {n: np.concatenate(x, axis=-1)[..., :count] for n, x in values.items()}
        results[split] = summarize(task, columns)
        if kept:
            outputs[split] = np.concatenate(kept[0])[:count]
    return results, outputs


def _stack(trees: Iterator[Any], size: int) -> Any:
    """Stacks arrays as they come: to keep them until the end would fragment the memory."""
    for number, tree in enumerate(trees):
        if not number:
            whole = jax.tree.map(lambda x: np.empty((size, *x.shape), x.dtype), tree)
        for array, value in zip(jax.tree.leaves(whole), jax.tree.leaves(tree), strict=True):
            array[number] = value
    return whole


def summarize(task: Task, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns a split's result from the values of its examples, `[..., num_examples]`."""
    count = columns["loss"].shape[-1]
    sums = {name: np.atleast_2d(x).sum(axis=1, dtype=float) for name, x in columns.items()}
    each: list[dict[str, Any]] = []
    for row in zip(*sums.values(), strict=True):
        of_one = dict(zip(sums, row, strict=True))
        with np.errstate(all="ignore"):  # A ratio of nothing is NaN.
            more = task.summarize(of_one, count)
        numbers = {n: x if isinstance(x, int) else float(x) for n, x in more.items()}
        each.append({name: float(x / count) for name, x in of_one.items()} | numbers)
    if len(each) == 1:
        return {"num_examples": count} | each[0]
    *singles, committee = each
    own = {name: np.array([single[name] for single in singles]) for name in committee}
    return {"num_examples": count} | own | {f"committee_{n}": x for n, x in committee.items()}

"""The members of a run as a committee, whose probabilities are the mean of theirs."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mnist_jax import eval_step
from mnist_jax.eval_step import Results
from mnist_jax.members import select
from mnist_jax.parallel.sharding import replicate
from mnist_jax.train_step import ApplyFn, Variables


def evaluate(
    variables: Variables,
    apply_fn: ApplyFn,
    examples: tuple[jax.typing.ArrayLike, jax.typing.ArrayLike],
    eval_indices: Mapping[str, np.ndarray],
    num_members: int,
) -> tuple[Results, dict[str, np.ndarray]]:
    """Evaluates each member as `eval_step.evaluate` does, and with several their committee.

    Returns:
      With several members, each metric of a split as an array, `[members]`, and the committee's
      `committee_num_correct` and `committee_accuracy`; and the committee's logits.
    """
    each = [
        eval_step.evaluate(select(variables, k, num_members), apply_fn, examples, eval_indices)
        for k in range(num_members)
    ]
    if num_members == 1:
        return each[0]
    labels = np.asarray(examples[1])
    results: Results = {}
    logits: dict[str, np.ndarray] = {}
    for split, batches in eval_indices.items():
        indices = batches[batches >= 0]
        values = [of_member[split] for of_member, _ in each]
        rows = np.stack([of_member[split] for _, of_member in each])
        logits[split] = np.asarray(log_mean_probabilities(rows))
        is_correct = logits[split].argmax(axis=-1) == labels[indices]
        results[split] = {name: np.array([v[name] for v in values]) for name in values[0]}
        results[split] |= {
            "num_examples": len(indices),
            "committee_num_correct": int(is_correct.sum()),
            "committee_accuracy": float(is_correct.mean()),
        }
    return results, logits


@jax.jit
def log_mean_probabilities(logits: jax.Array) -> jax.Array:
    """Returns a committee's logits: the logarithms of the mean of its members' probabilities.

    `logits` are the members', `[members, ..., classes]`.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    return replicate(jax.nn.logsumexp(log_probabilities, axis=0) - math.log(len(logits)))


@functools.lru_cache  # jit would compile each new function again.
def create_apply(apply_fn: ApplyFn) -> ApplyFn:
    """Returns the `apply` of a committee, for the variables of all members."""

    def apply(variables: Variables, images: jax.Array, train: bool = False) -> Any:
        def apply_one(variables: Variables) -> Any:
            return apply_fn(variables, images, train=train)

        return log_mean_probabilities(jax.lax.map(apply_one, variables))

    return apply

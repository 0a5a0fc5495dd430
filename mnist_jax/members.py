"""Many seeds in one program: each member of a state is the run of its own seed.

With `config.num_seeds` above 1, every array of a state has a leading dimension `members`,
except `step`, which they share. Member k is the run with `seed + k`: it has its own initial
parameters, order of examples and randomness.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mnist_jax import input_pipeline
from mnist_jax.parallel import sharding
from mnist_jax.runtime import memory

_State = TypeVar("_State", bound=Any)  # A `TrainState`.


def seeds(config: ConfigDict) -> range:
    """Returns the seed of each member."""
    return range(config.seed, config.seed + config.num_seeds)


def batch_indices(config: ConfigDict, steps: range, num_examples: int) -> np.ndarray:
    """Returns the training examples that some steps of each member see.

    Returns:
      `int32[members, steps, batch]`, or without the first dimension if there is one member; see
      `input_pipeline.batch_indices`.
    """
    each = [
        input_pipeline.batch_indices(seed, steps, config.batch_size, num_examples)
        for seed in seeds(config)
    ]
    return np.stack(each) if len(each) > 1 else each[0]


def stack(states: Sequence[_State]) -> _State:
    """Returns the states of some members as one; a single state as it is."""
    if len(states) == 1:
        return states[0]
    return jax.tree.map(lambda *x: jnp.stack(x), *states).replace(step=states[0].step)


def select(tree: Any, member: int, num_members: int) -> Any:
    """Returns a member of a state, or of a part of it."""
    if num_members == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf[member] if leaf.ndim else leaf, tree)


def are_several(state: Any) -> bool:
    """Returns whether a state has members."""
    return state.rng.ndim > 1


def map_members(
    function: Callable[..., tuple[_State, Any]],
    examples: Any,
    state: _State,
    batches: Any,
    at_once: int,
) -> tuple[_State, Any]:
    """Inside `jit`: calls `function(examples, state, batches)` for each member.

    Args:
      function: Returns a member's next state, and metrics with a leading dimension `steps`.
      examples: Arrays that all members share.
      state: Of all members.
      batches: Arrays `[members, steps, batch, ...]`.
      at_once: Members to compute together, by `vmap`, on each device. With 1, each member has
        the bits of its single run (exceptions: docs/scale.md).

    Returns:
      The next state of all members, and metrics `[steps, members, ...]`.
    """

    def call_each(shared: Any, members: tuple[_State, Any]) -> tuple[_State, Any]:
        examples, step = shared

        def call(member: tuple[_State, Any]) -> tuple[_State, Any]:
            # XLA would fuse the selection of a member with its step, and round differently.
            own_state, own_batches = jax.lax.optimization_barrier(member)
            return function(examples, own_state.replace(step=step), own_batches)

        return jax.lax.map(call, members, batch_size=at_once if at_once > 1 else None)

    shared, members = (examples, state.step), (state.replace(step=None), batches)
    states, metrics = sharding.divide_members(call_each, shared, members)
    metrics = jax.tree.map(lambda metric: jnp.swapaxes(metric, 0, 1), metrics)
    return states.replace(step=states.step[0]), metrics


def at_once(state: Any) -> int:
    """Returns how many members to compute together: 1 on CPUs, as many as fit elsewhere."""
    if jax.default_backend() == "cpu" or not are_several(state):
        return 1
    num_members = len(state.rng)
    # A quarter of the memory, because a step also has gradients and the output of each layer.
    limit = memory.device_limit() * num_members // (4 * memory.num_bytes(state))
    return max(1, min(num_members, limit))


def apply_each(apply_fn: Callable[..., Any], variables: Any, inputs: jax.Array) -> jax.Array:
    """Inside `jit`: returns the outputs of each member, `[members, batch, ...]`."""
    return jax.lax.map(lambda own: apply_fn(own, inputs, train=False), variables)

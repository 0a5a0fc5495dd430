"""The training state, the loss, one training step and a scan of many. Pure functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from ml_collections import ConfigDict, FrozenConfigDict

from mnist_jax import members
from mnist_jax.augmentation import Augmentation, create_augmentation
from mnist_jax.input_pipeline import take
from mnist_jax.optimizers import create_learning_rate_schedule, create_optimizer
from mnist_jax.parallel.sharding import replicate, shard_batch
from mnist_jax.tasks import Batch, Task

Variables = Mapping[str, Any]  # Of arrays, or of trees of them.
Metrics = dict[str, Any]  # Of arrays, or of trees of them.
ApplyFn = Callable[..., Any]  # flax types the result of `Module.apply` so.


class TrainState(train_state.TrainState):
    """Flax's state: `step` (`int32[]`, completed updates), `params` and `opt_state`.

    Attributes:
      collections: The model's other variables by collection, such as `batch_stats`.
      rng: The PRNG key of the steps as `jax.random.key_data`; each step folds its number in.
      task: What is learned; static, like the model's `apply_fn`, the optimizer `tx`, and what
        follows.
      schedule: The learning rate as a function of `step`.
      augment: Changes the training images.
    """

    collections: Variables
    rng: jax.Array
    task: Task = flax.struct.field(pytree_node=False)
    schedule: optax.Schedule = flax.struct.field(pytree_node=False)
    augment: Augmentation | None = flax.struct.field(pytree_node=False)

    @property
    def variables(self) -> Variables:
        """All of the model's variables, as its `apply_fn` gets them."""
        return {"params": self.params, **self.collections}


def create_train_state(
    config: ConfigDict, model: nn.Module, task: Task, example: jax.ShapeDtypeStruct
) -> TrainState:
    """Returns the state at step 0: a function of `config.seed`; see `members` for several.

    `example` is an input of the model, without the dimension `batch`.

    Raises:
      UserError: The config names something that does not exist.
    """
    # The seed is an argument: compiled once for all seeds.
    fixed = FrozenConfigDict({**config, "seed": 0})
    states = [
        init(jnp.uint32(seed), fixed, model.init, model.apply, task, example)
        for seed in members.seeds(config)
    ]
    return members.stack(states)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def init(
    seed: jax.Array,
    config: FrozenConfigDict,
    init_fn: ApplyFn,
    apply_fn: ApplyFn,
    task: Task,
    example: jax.ShapeDtypeStruct,
) -> TrainState:
    """Creates the state; equal arguments get the same static fields, so nothing is compiled."""
    step_key, init_key = jax.random.split(jax.random.key(seed))
    collections = init_fn(init_key, jnp.zeros((1, *example.shape), example.dtype), train=False)
    schedule = create_learning_rate_schedule(config)
    state = TrainState.create(
        apply_fn=apply_fn,
        params=collections.pop("params"),
        tx=create_optimizer(config),
        collections=collections,
        rng=jax.random.key_data(step_key),
        task=task,
        schedule=lambda step: schedule(step // config.accumulate_steps),
        augment=create_augmentation(config),
    )
    # Strongly typed, as a restored one: a resumed run is computed by the same program.
    return state.replace(step=jnp.zeros((), jnp.int32))


def loss_fn(params: Variables, state: TrainState, batch: Batch) -> tuple[jax.Array, Variables]:
    """Computes the task's loss, averaged over the batch.

    `params` are used instead of the state's, whose step determines all randomness.

    Returns:
      `float32[]`, and the model's other variables after the batch.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    images = batch["image"]
    if state.augment:
        with jax.named_scope("augmentation"):
            augmented = state.augment(jax.random.fold_in(key, 0), images)
            # A model scales integers alone.
            factor = 255 if jnp.issubdtype(images.dtype, jnp.integer) else 1
            images = augmented if augmented.dtype == images.dtype else augmented / factor
    outputs, collections = state.apply_fn(
        {"params": params, **state.collections},
        images,
        train=True,
        rngs={"dropout": key},
        mutable=list(state.collections),
    )
    with jax.named_scope("loss"):
        loss = state.task.loss(outputs, batch).mean()
    return loss, collections


@functools.partial(jax.jit, static_argnames="detailed")
def train_step(
    state: TrainState, batch: Batch, *, detailed: bool = False
) -> tuple[TrainState, Metrics]:
    """Performs one update.

    Returns:
      The next state, and the metrics of this batch under the old parameters: `loss` and
      `learning_rate`, `float32[]`; with `detailed` also the gradients `grads`, their global
      norm `grad_norm`, and the new parameters `params`.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, collections), grads = grad_fn(state.params, state, batch)
    with jax.named_scope("optimizer"):  # A box in TensorBoard's graph.
        metrics: Metrics = {"loss": loss, "learning_rate": state.schedule(state.step)}
        state = state.apply_gradients(grads=grads, collections=collections)
    if detailed:
        metrics |= {"grad_norm": optax.tree.norm(grads), "grads": grads, "params": state.params}
    return state, metrics


@functools.partial(
    jax.jit, donate_argnames="state", static_argnames=("detailed", "members_at_once")
)
def train_steps(
    state: TrainState,
    examples: Batch | None,
    batches: Any,
    *,
    detailed: bool = False,
    members_at_once: int = 1,
) -> tuple[TrainState, Metrics]:
    """Performs updates in one device call: a scan of `train_step`, or a single one.

    Args:
      state: Donated: use the returned one instead.
      examples: All examples, `image` and `label`, or None.
      batches: The examples that each step sees: their indices, `int32[steps, batch]`, or
        without `examples` the batches, `[steps, batch, ...]`. For several members `[members,
        steps, batch, ...]`. See `input_pipeline`.
      detailed: As for `train_step`, for every step: use it with few steps.
      members_at_once: See `members.map_members`.

    Returns:
      The state after the last step, and the metrics of `train_step`, each with a leading
      dimension `steps`, then `members` if there are several.
    """

    def steps(
        examples: Batch | None, state: TrainState, batches: Any
    ) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, rows: Any) -> tuple[TrainState, Metrics]:
            return train_step(state, shard_batch(take(examples, rows)), detailed=detailed)

        if len(jax.tree.leaves(batches)[0]) == 1:
            # Alone: XLA's CPU backend runs convolutions inside a scan slowly.
            state, metrics = body(state, jax.tree.map(lambda rows: rows[0], batches))
            return state, jax.tree.map(lambda metric: metric[None], metrics)
        return jax.lax.scan(body, state, batches)

    if members.are_several(state):
        return replicate(members.map_members(steps, examples, state, batches, members_at_once))
    return replicate(steps(examples, state, batches))

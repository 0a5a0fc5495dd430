"""The training state, the loss, one training step and a scan of many. Pure functions."""

import functools
from collections.abc import Callable, Mapping, Sequence
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
from mnist_jax.optimizers import create_learning_rate_schedule, create_optimizer
from mnist_jax.parallel.sharding import replicate, shard_batch

Batch = Mapping[str, jax.Array]  # `image`, uint8[batch, *image_shape]; `label`, int32[batch]
Variables = Mapping[str, Any]  # Of arrays, or of trees of them.
Metrics = dict[str, Any]  # Of arrays, or of trees of them.
ApplyFn = Callable[..., Any]  # flax types the result of `Module.apply` so.


class TrainState(train_state.TrainState):
    """Flax's state: `step` (`int32[]`, completed updates), `params` and `opt_state`.

    Attributes:
      collections: The model's other variables by collection, such as `batch_stats`.
      rng: The PRNG key of the steps as `jax.random.key_data`; each step folds its number in.
      schedule: The learning rate as a function of the number of completed updates; static,
        like the model's `apply_fn` and the optimizer `tx`.
      augment: Changes the training images; static.
    """

    collections: Variables
    rng: jax.Array
    schedule: optax.Schedule = flax.struct.field(pytree_node=False)
    augment: Augmentation | None = flax.struct.field(pytree_node=False)

    @property
    def variables(self) -> Variables:
        """All of the model's variables, as its `apply_fn` gets them."""
        return {"params": self.params, **self.collections}


def create_train_state(
    config: ConfigDict, model: nn.Module, image_shape: Sequence[int]
) -> TrainState:
    """Returns the state at step 0: a function of `config.seed`; see `members` for several.

    Raises:
      UserError: The config names something that does not exist.
    """
    # The seed is an argument: compiled once for all seeds.
    fixed = FrozenConfigDict({**config, "seed": 0})
    states = [
        init(jnp.uint32(seed), fixed, model.init, model.apply, tuple(image_shape))
        for seed in members.seeds(config)
    ]
    # Raises where an array does not fit; reading one of the others would wait for ever.
    return jax.block_until_ready(members.stack(states))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def init(
    seed: jax.Array,
    config: FrozenConfigDict,
    init_fn: ApplyFn,
    apply_fn: ApplyFn,
    image_shape: tuple[int, ...],
) -> TrainState:
    """Creates the state; equal arguments get the same static fields, so nothing is compiled."""
    step_key, init_key = jax.random.split(jax.random.key(seed))
    collections = init_fn(init_key, jnp.zeros((1, *image_shape), jnp.uint8), train=False)
    state = TrainState.create(
        apply_fn=apply_fn,
        params=collections.pop("params"),
        tx=create_optimizer(config),
        collections=collections,
        rng=jax.random.key_data(step_key),
        schedule=create_learning_rate_schedule(config),
        augment=create_augmentation(config.augmentation),
    )
    # A strongly typed counter: a weakly typed one would compile every function twice.
    return state.replace(step=jnp.zeros((), jnp.int32))


def loss_fn(params: Variables, state: TrainState, batch: Batch) -> tuple[jax.Array, Variables]:
    """Computes the softmax cross-entropy of the labels, averaged over the batch.

    `params` are used instead of the state's, whose step determines all randomness.

    Returns:
      `float32[]`, in nats, and the model's other variables after the batch.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    images = batch["image"]
    if state.augment:
        with jax.named_scope("augmentation"):
            images = state.augment(jax.random.fold_in(key, 0), images)
    logits, collections = state.apply_fn(
        {"params": params, **state.collections},
        images,
        train=True,
        rngs={"dropout": key},
        mutable=list(state.collections),
    )
    with jax.named_scope("loss"):
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
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
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    *,
    detailed: bool = False,
    members_at_once: int | None = None,
) -> tuple[TrainState, Metrics]:
    """Performs updates in one device call: a scan of `train_step`, or a single one.

    Args:
      state: Donated: use the returned one instead.
      images: All examples, `uint8[num_examples, *image_shape]`.
      labels: `int32[num_examples]`.
      indices: The examples that each step sees, `int32[steps, batch]`, or for several members
        `int32[members, steps, batch]`.
      detailed: As for `train_step`, for every step: use it with few steps.
      members_at_once: See `members.map_members`.

    Returns:
      The state after the last step, and the metrics of `train_step`, each with a leading
      dimension `steps`, then `members` if there are several.
    """

    def steps(
        examples: tuple[jax.Array, jax.Array], state: TrainState, indices: jax.Array
    ) -> tuple[TrainState, Metrics]:
        images, labels = examples

        def body(state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
            batch = {"image": images[rows], "label": labels[rows]}
            return train_step(state, shard_batch(batch), detailed=detailed)

        if len(indices) == 1:  # XLA's CPU backend runs convolutions inside a scan slowly.
            state, metrics = body(state, indices[0])
            return state, jax.tree.map(lambda metric: metric[None], metrics)
        return jax.lax.scan(body, state, indices)

    examples = images, labels
    if indices.ndim == 3:
        mapped = members.map_members(steps, examples, state, indices, members_at_once)
        return replicate(mapped)
    return replicate(steps(examples, state, indices))

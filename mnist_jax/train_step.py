"""The training state, the loss, one training step and a scan of many. Pure functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from ml_collections import ConfigDict

from mnist_jax.models import create_model
from mnist_jax.optimizers import create_learning_rate_schedule, create_optimizer
from mnist_jax.parallel.sharding import replicate, shard_batch

Batch = Mapping[str, jax.Array]
Params = Mapping[str, Any]
Metrics = dict[str, Any]  # Of arrays, or of trees of them.
ApplyFn = Callable[..., Any]  # flax types the result of `Module.apply` so.


class TrainState(train_state.TrainState):
    """Flax's state: `step` (`int32[]`, completed updates), `params` and `opt_state`.

    Attributes:
      schedule: The learning rate as a function of the number of completed updates; static,
        like the model's `apply_fn` and the optimizer `tx`.
    """

    schedule: optax.Schedule = flax.struct.field(pytree_node=False)


def create_train_state(config: ConfigDict, num_classes: int) -> TrainState:
    """Returns the state at step 0, with float32 parameters: a function of `config.seed`.

    Args:
      config: See `configs/default.py`.
      num_classes: Width of the output layer.
    """
    model = create_model(config, num_classes)
    tx = create_optimizer(config)
    schedule = create_learning_rate_schedule(config)

    @jax.jit
    def init(seed: jax.Array) -> TrainState:
        # The other half is reserved for randomness in the steps: fold_in(key, step).
        _, init_key = jax.random.split(jax.random.key(seed))
        params = model.init(init_key, jnp.zeros((1, 28, 28), jnp.uint8))["params"]
        state = TrainState.create(apply_fn=model.apply, params=params, tx=tx, schedule=schedule)
        # A strongly typed counter: a weakly typed one would compile every function twice.
        return state.replace(step=jnp.zeros((), jnp.int32))

    return init(jnp.uint32(config.seed))  # An argument: one compilation for all seeds.


def loss_fn(params: Params, apply_fn: ApplyFn, batch: Batch) -> jax.Array:
    """Computes the softmax cross-entropy of the labels, averaged over the batch.

    Args:
      params: The model's parameters.
      apply_fn: The model's `apply`.
      batch: `image`: `uint8[batch, 28, 28]`, `label`: `int32[batch]`.

    Returns:
      `float32[]`, in nats.
    """
    logits = apply_fn({"params": params}, batch["image"])
    with jax.named_scope("loss"):
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


@functools.partial(jax.jit, static_argnames="detailed")
def train_step(
    state: TrainState, batch: Batch, *, detailed: bool = False
) -> tuple[TrainState, Metrics]:
    """Performs one update.

    Args:
      state: Neither changed nor donated: the caller may use it again.
      batch: `image`: `uint8[batch, 28, 28]`, `label`: `int32[batch]`.
      detailed: Return more metrics.

    Returns:
      The next state, and the metrics of this batch under the old parameters: `loss` and
      `learning_rate`, `float32[]`; with `detailed` also the gradients `grads`, their global
      norm `grad_norm`, and the new parameters `params`.
    """
    loss, grads = jax.value_and_grad(loss_fn)(state.params, state.apply_fn, batch)
    with jax.named_scope("optimizer"):  # A box in TensorBoard's graph.
        metrics: Metrics = {"loss": loss, "learning_rate": state.schedule(state.step)}
        state = state.apply_gradients(grads=grads)
    if detailed:
        metrics |= {"grad_norm": optax.tree.norm(grads), "grads": grads, "params": state.params}
    return state, metrics


@functools.partial(jax.jit, donate_argnames="state", static_argnames="detailed")
def train_steps(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    *,
    detailed: bool = False,
) -> tuple[TrainState, Metrics]:
    """Performs many updates in one device call: a scan of `train_step`.

    Args:
      state: Donated: use the returned one instead.
      images: All examples, `uint8[num_examples, 28, 28]`.
      labels: `int32[num_examples]`.
      indices: The examples that each step sees, `int32[steps, batch]`.
      detailed: Return more metrics, for every step: use it with few steps.

    Returns:
      The state after the last step, and the metrics of `train_step`, each with a leading
      dimension `steps`.
    """

    def body(state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        batch = {"image": images[rows], "label": labels[rows]}
        return train_step(state, shard_batch(batch), detailed=detailed)

    return replicate(jax.lax.scan(body, state, indices))

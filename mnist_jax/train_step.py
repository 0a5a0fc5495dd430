"""What is computed: the initial state, a training step, many of them, an evaluation step.

Pure functions; every effect is the loop's.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

from mnist_jax import models, optimizers
from mnist_jax.parallel import devices

Batch = Mapping[str, jax.Array]
Params = Mapping[str, Any]
Metrics = dict[str, Any]  # Of arrays, or of trees of them.
ApplyFn = Callable[..., Any]  # flax types the result of `Module.apply` so.


@flax.struct.dataclass
class EvalMetrics(clu_metrics.Collection):
    """Masked sums over the examples seen so far: divided once, at `compute()`."""

    accuracy: clu_metrics.Accuracy
    loss: clu_metrics.Average.from_output("loss")  # type: ignore[valid-type]


class _TrainState(TrainState):
    """Updates in a scope of the optimizer's name: a box of TensorBoard's graph."""

    optimizer: str = flax.struct.field(pytree_node=False)

    def apply_gradients(self, *, grads: Params, **kwargs: Any) -> "_TrainState":
        with jax.named_scope(self.optimizer):
            return super().apply_gradients(grads=grads, **kwargs)


def create_model(config: ConfigDict, num_classes: int) -> models.MLP:
    """Returns the network that the config describes."""
    return models.MLP(hidden_sizes=tuple(config.hidden_sizes), num_classes=num_classes)


def create_train_state(config: ConfigDict, num_classes: int) -> TrainState:
    """Returns the state at step 0, a function of `config.seed`.

    Args:
      config: See `configs/default.py`.
      num_classes: Width of the output layer.

    Returns:
      `step` (`int32[]`, completed updates), `params` (float32) and `opt_state`, with the
      model's `apply_fn` and the optimizer `tx` as static fields.
    """
    model = create_model(config, num_classes)
    tx = optimizers.create_optimizer(config)

    @jax.jit
    def init(seed: jax.Array) -> TrainState:
        # The other half is free for randomness in the steps: fold_in(key, step).
        _, init_key = jax.random.split(jax.random.key(seed))
        params = model.init(init_key, jnp.zeros((1, 28, 28), jnp.uint8))["params"]
        state = _TrainState.create(
            apply_fn=model.apply, params=params, tx=tx, optimizer=config.optimizer
        )
        # A strongly typed counter: a weak one would compile every function twice.
        return state.replace(step=jnp.zeros((), jnp.int32))

    return init(jnp.uint32(config.seed))  # An argument: compiled once for all seeds.


def loss_fn(params: Params, apply_fn: ApplyFn, batch: Batch) -> jax.Array:
    """Softmax cross-entropy of the labels, averaged over the batch.

    Args:
      params: The model's parameters.
      apply_fn: The model's `apply`.
      batch: `image`: `uint8[batch, 28, 28]`, `label`: `int32[batch]`.

    Returns:
      `float32[]`, in nats.
    """
    logits = apply_fn({"params": params}, batch["image"])
    with jax.named_scope("loss"):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean()


@functools.partial(jax.jit, static_argnames="detailed")
def train_step(
    state: TrainState, batch: Batch, *, detailed: bool = False
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
      state: Not changed and not donated: it may be used again.
      batch: `image`: `uint8[batch, 28, 28]`, `label`: `int32[batch]`.
      detailed: Return more metrics.

    Returns:
      The next state, and the metrics of this batch under the old parameters: `loss`,
      `float32[]`; with `detailed` also the gradient `grads`, its global norm `grad_norm`,
      and the new parameters, `params`.
    """
    loss, grads = jax.value_and_grad(loss_fn)(state.params, state.apply_fn, batch)
    state = state.apply_gradients(grads=grads)
    metrics: Metrics = {"loss": loss}
    if detailed:
        grad_norm = optax.tree.norm(grads)
        metrics |= {"grad_norm": grad_norm, "grads": grads, "params": state.params}
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
    """Many updates in one device call: a scan of `train_step`.

    Args:
      state: Donated: use the one returned instead.
      images: Of all examples, `uint8[num_examples, 28, 28]`.
      labels: `int32[num_examples]`.
      indices: Which of them each step sees, `int32[steps, batch]`.
      detailed: Return more metrics; all of every step, so let the steps be few.

    Returns:
      The state after the last step, and each step's metrics, in arrays with a leading
      `steps`: those of `train_step`.
    """

    def body(state: TrainState, batch_indices: jax.Array) -> tuple[TrainState, Metrics]:
        batch = {"image": images[batch_indices], "label": labels[batch_indices]}
        return train_step(state, devices.shard(batch), detailed=detailed)

    return devices.replicate(jax.lax.scan(body, state, indices))


@functools.partial(jax.jit, static_argnames="apply_fn")
def eval_step(
    params: Params, batch: Batch, *, apply_fn: ApplyFn
) -> tuple[EvalMetrics, jax.Array]:
    """Sums loss and correct predictions over a batch.

    Args:
      params: The model's parameters.
      batch: `image`: `uint8[batch, 28, 28]`, `label`: `int32[batch]`, `mask`:
        `bool[batch]`, False for examples that do not count.
      apply_fn: The model's `apply`.

    Returns:
      Metrics to `merge` with those of the other batches, and the logits,
      `float32[batch, num_classes]`.
    """
    batch = devices.shard(batch)
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
    """Many batches in one device call: a scan of `eval_step`.

    Args:
      params: The model's parameters.
      images: Of all examples, `uint8[num_examples, 28, 28]`.
      labels: `int32[num_examples]`.
      indices: Which of them are in each batch, `int32[batches, batch]`; -1 in rows that do
        not count.
      apply_fn: The model's `apply`.

    Returns:
      Each batch's metrics and logits: those of `eval_step`, with a leading `batches`.
    """

    def body(_: None, batch_indices: jax.Array) -> tuple[None, tuple[EvalMetrics, jax.Array]]:
        batch = {
            "image": images[batch_indices],
            "label": labels[batch_indices],
            "mask": batch_indices >= 0,
        }
        return None, eval_step(params, batch, apply_fn=apply_fn)

    return devices.replicate(jax.lax.scan(body, None, indices)[1])


@functools.partial(jax.jit, static_argnames="apply_fn")
def predict_step(params: Params, images: jax.Array, *, apply_fn: ApplyFn) -> jax.Array:
    """Predicts each image's class.

    Args:
      params: The model's parameters.
      images: `uint8[batch, 28, 28]`.
      apply_fn: The model's `apply`.

    Returns:
      Log-probabilities, `float32[batch, num_classes]`.
    """
    logits = apply_fn({"params": params}, devices.shard(images))
    return devices.replicate(jax.nn.log_softmax(logits))


def all_finite(tree: Any) -> bool:
    """Returns whether every number of the tree is finite; on the host: nothing to compile."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(tree)))

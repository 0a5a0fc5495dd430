"""The optimizer and its learning rate, from the config."""

import jax
import optax
from ml_collections import ConfigDict


def create_learning_rate_schedule(config: ConfigDict) -> optax.Schedule:
    """Returns the learning rate as a function of the number of completed updates.

    Linear from 0 over `warmup_steps`, then `learning_rate` (`constant`), or half a cosine
    from it down to 0 at `num_train_steps` (`cosine`).
    """
    warmup = 0.0, config.learning_rate, config.warmup_steps
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(*warmup, config.num_train_steps)
    if config.warmup_steps:
        return optax.warmup_constant_schedule(*warmup)
    return optax.constant_schedule(config.learning_rate)


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns gradient clipping, weight decay and the update rule, as configured."""
    learning_rate = create_learning_rate_schedule(config)
    if config.schedule == "constant" and not config.warmup_steps:
        # With a number instead of a schedule, `opt_state` has no second step counter.
        learning_rate = config.learning_rate
    parts = []
    if config.grad_clip_norm:
        parts += [optax.clip_by_global_norm(config.grad_clip_norm)]
    if config.optimizer == "sgd":
        if config.weight_decay:
            parts += [optax.add_decayed_weights(config.weight_decay, mask=_kernels)]
        parts += [optax.sgd(learning_rate, momentum=config.momentum or None)]
    elif config.optimizer == "adam":
        parts += [optax.adam(learning_rate)]
    else:  # "adamw"; the config is validated.
        parts += [optax.adamw(learning_rate, weight_decay=config.weight_decay, mask=_kernels)]
    return optax.chain(*parts)


def _kernels(params: optax.Params) -> optax.Params:
    """Marks the parameters that weight decay applies to: matrices, not biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)

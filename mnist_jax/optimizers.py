"""The optimizer and its learning rate, from the config.

Each function of a table takes the config fields that it uses by their names, which is how
others are known to be ignored. An optimizer also gets the learning rate as a schedule, or as a
number, and a schedule the number of updates.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import UserError
from mnist_jax.runtime.saved_arrays import leaves_by_name

_Rate = Any  # An `optax.Schedule`, or a number.


def constant(learning_rate: float, warmup_steps: int) -> optax.Schedule:
    """Linear from 0 over `warmup_steps`, then `learning_rate`."""
    if warmup_steps:
        return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    return optax.constant_schedule(learning_rate)


def cosine(learning_rate: float, warmup_steps: int, num_updates: int) -> optax.Schedule:
    """After the warm-up half a cosine, down to 0 at the end."""
    if warmup_steps >= num_updates:
        problem = f"{warmup_steps} leaves nothing of {num_updates} updates to the cosine"
        raise UserError(f"config.warmup_steps: {problem}; lower it")
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, num_updates)


def step(
    learning_rate: float, warmup_steps: int, drop_steps: Sequence[int], drop_factor: float
) -> optax.Schedule:
    """After the warm-up `learning_rate`, times `drop_factor` from each of `drop_steps` on."""
    warmup = constant(learning_rate, warmup_steps)
    drops = optax.piecewise_constant_schedule(1.0, dict.fromkeys(drop_steps, drop_factor))
    return lambda count: warmup(count) * drops(count)


SCHEDULES = {"constant": constant, "cosine": cosine, "step": step}


def sgd(learning_rate: _Rate, momentum: float, weight_decay: float) -> list[Any]:
    """Stochastic gradient descent; weight decay as L2."""
    decay = optax.add_decayed_weights(weight_decay, mask=_kernels)
    return [decay] * bool(weight_decay) + [optax.sgd(learning_rate, momentum=momentum or None)]


def adam(learning_rate: _Rate) -> list[Any]:
    """Adam (Kingma and Ba 2015)."""
    return [optax.adam(learning_rate)]


def adamw(learning_rate: _Rate, weight_decay: float) -> list[Any]:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return [optax.adamw(learning_rate, weight_decay=weight_decay, mask=_kernels)]


def lion(learning_rate: _Rate, weight_decay: float) -> list[Any]:
    """Lion (Chen et al. 2023); its learning rate is a third to a tenth of Adam's."""
    return [optax.lion(learning_rate, weight_decay=weight_decay, mask=_kernels)]


def adafactor(learning_rate: _Rate) -> list[Any]:
    """Adafactor (Shazeer and Stern 2018), with a state smaller than the parameters."""
    return [optax.adafactor(learning_rate)]


OPTIMIZERS = {"sgd": sgd, "adam": adam, "adamw": adamw, "lion": lion, "adafactor": adafactor}


def create_learning_rate_schedule(config: ConfigDict) -> optax.Schedule:
    """Returns the learning rate as a function of the number of completed updates."""
    num_updates = config.num_train_steps // config.accumulate_steps
    return config_lib.create(config, "schedule", SCHEDULES, num_updates=num_updates)


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns gradient clipping, weight decay and the update rule, as configured.

    Raises:
      UserError: A choice does not exist, ignores a field, or does not suit another field; also
        from its `init`: no parameter is trainable.
    """
    learning_rate: _Rate = create_learning_rate_schedule(config)
    if config.schedule == "constant" and not config.warmup_steps:
        # With a number instead of a schedule, `opt_state` has no second step counter.
        learning_rate = config.learning_rate
    parts = config_lib.create(config, "optimizer", OPTIMIZERS, learning_rate=learning_rate)
    if config.grad_clip_norm:
        parts = [optax.clip_by_global_norm(config.grad_clip_norm), *parts]
    tx = optax.chain(*parts)
    if config.accumulate_steps > 1:
        tx = optax.MultiSteps(tx, config.accumulate_steps).gradient_transformation()
    if config.trainable:
        kinds = {True: tx, False: optax.set_to_zero()}
        tx = optax.multi_transform(kinds, lambda params: _trainable(config.trainable, params))
    return tx


def _kernels(params: optax.Params) -> optax.Params:
    """Marks the parameters that weight decay applies to: matrices, not biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _trainable(pattern: str, params: optax.Params) -> optax.Params:
    """Marks the parameters whose name, like `hidden1/kernel`, contains a match."""
    marks = {name: bool(re.search(pattern, name)) for name in leaves_by_name(params)}
    if not any(marks.values()):
        problem = f"{pattern!r} matches none of {', '.join(marks)}"
        raise UserError(f"config.trainable: {problem}; give a regular expression that does")
    return jax.tree.unflatten(jax.tree.structure(params), marks.values())

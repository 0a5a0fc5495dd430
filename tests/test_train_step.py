import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.train_step import loss_fn, train_step, train_steps
from tests.states import create_state

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 28, 28), np.uint8)
LABELS = RNG.integers(0, 10, 50).astype(np.int32)
BATCH = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    log_sums = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return log_sums - logits[np.arange(len(labels)), labels]


def test_the_loss_is_the_mean_cross_entropy_in_nats(fake_config):
    state = create_state(fake_config)
    logits = state.apply_fn(state.variables, BATCH["image"])
    expected = cross_entropies(logits, LABELS).mean()
    loss, _ = loss_fn(state.params, state, BATCH)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_runs_that_differ_in_their_seed_share_what_is_compiled(fake_config):
    first = create_state(fake_config)
    fake_config.seed = 1
    second = create_state(fake_config)
    assert jax.tree.structure(first) == jax.tree.structure(second)  # With the static fields.
    fake_config.learning_rate = 0.5
    assert jax.tree.structure(create_state(fake_config)) != jax.tree.structure(first)


def test_a_step_is_one_step_of_gradient_descent(fake_config):
    state = create_state(fake_config)
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, state, BATCH)
    new_state, metrics = train_step(state, BATCH)
    assert int(new_state.step) == 1
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    jax.tree.map(
        lambda new, old, grad: np.testing.assert_allclose(
            new, old - 0.01 * grad, rtol=1e-5, atol=1e-7
        ),
        new_state.params,
        state.params,
        grads,
    )
    assert int(state.step) == 0  # Neither changed nor donated.


@pytest.mark.parametrize(
    ("fields", "cuts"),
    [
        ({"momentum": 0.9}, ([12], [5, 7], [1] * 12)),
        ({"model": "cnn", "hidden_sizes": (128, 32), "dropout": 0.4}, ([12], [1] * 12)),
    ],
    ids=["mlp", "cnn"],
)
def test_many_steps_in_one_call_are_the_single_steps_to_the_bit(fake_config, fields, cuts):
    fake_config.update(fields)
    indices = RNG.integers(0, 50, (12, 20)).astype(np.int32)
    one_by_one = create_state(fake_config)
    losses = []
    for rows in indices:
        batch = {"image": jnp.asarray(IMAGES[rows]), "label": jnp.asarray(LABELS[rows])}
        one_by_one, metrics = train_step(one_by_one, batch)
        losses.append(np.asarray(metrics["loss"]))
    for lengths in cuts:
        state, scanned = create_state(fake_config), []
        start = 0
        for length in lengths:
            part = indices[start : start + length]
            state, metrics = train_steps(state, BATCH, part)
            scanned.append(np.asarray(metrics["loss"]))
            start += length
        np.testing.assert_array_equal(np.concatenate(scanned), losses)
        jax.tree.map(
            np.testing.assert_array_equal,
            (state.step, state.variables, state.opt_state),
            (one_by_one.step, one_by_one.variables, one_by_one.opt_state),
        )


def test_the_learning_rate_of_each_step_is_among_its_metrics(fake_config):
    fake_config.update(schedule="cosine", warmup_steps=4, num_train_steps=8)
    indices = RNG.integers(0, 50, (8, 20)).astype(np.int32)
    _, metrics = train_steps(create_state(fake_config), BATCH, indices)
    warmup = 0.01 * np.arange(4) / 4
    cosine = 0.01 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(metrics["learning_rate"], [*warmup, *cosine], rtol=1e-6)


def test_a_state_that_does_not_fit_into_memory_is_an_error(fake_config):
    """And is not returned: its step could be waited for, for ever."""
    fake_config.hidden_sizes = (2**14, 2**14)  # A gigabyte.
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
    try:
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
            jax.block_until_ready(create_state(fake_config))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_single_step_is_no_scan(fake_config):
    """XLA's CPU backend runs convolutions inside a scan three to five times as slowly."""

    def primitives(steps: int) -> str:
        indices = np.zeros((steps, 20), np.int32)
        return str(jax.make_jaxpr(train_steps)(create_state(fake_config), BATCH, indices))

    assert "scan[" not in primitives(1)
    assert "scan[" in primitives(2)


def test_the_augmentation_and_dropout_of_a_step_are_functions_of_seed_and_step(fake_config):
    fake_config.update(model="cnn", hidden_sizes=(128, 32), augmentation="random_shift")
    state = create_state(fake_config)
    loss = lambda state: float(loss_fn(state.params, state, BATCH)[0])  # noqa: E731
    assert loss(state) == loss(create_state(fake_config))
    assert loss(state) != loss(state.replace(step=state.step + 1))
    assert loss(state) != loss(state.replace(rng=state.rng + 1))


def test_parameters_are_float32_whatever_the_computation_is(fake_config):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        fake_config.dtype = dtype
        state, metrics = train_step(create_state(fake_config), BATCH)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        losses[dtype] = float(metrics["loss"])
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=2**-7)

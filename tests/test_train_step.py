import resource
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.tasks import Classification
from mnist_jax.train_step import create_train_state, loss_fn, train_step, train_steps
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
    fake_config.seed = 2**32 - 1  # The largest.
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


def test_augmentation_and_dropout_have_keys_that_seed_and_step_decide(fake_config):
    """And each its own."""

    def keys(seed: int, step: int) -> list[tuple[int, ...]]:
        found = {}

        def augment(key, images):
            found["augmentation"] = key
            return images

        def apply_fn(variables, images, *, train, rngs, mutable):
            assert train
            found.update(rngs)
            return jnp.zeros((len(images), 10)), {}

        fake_config.seed = seed
        state = create_state(fake_config)
        state = state.replace(step=state.step + step, augment=augment, apply_fn=apply_fn)
        loss_fn(state.params, state, BATCH)
        assert {key.dtype for key in found.values()} == {jax.random.key(0).dtype}
        return [(*jax.random.key_data(found[n]).tolist(),) for n in ("augmentation", "dropout")]

    every = [key for seed in (0, 1) for step in (0, 1, 2) for key in keys(seed, step)]
    assert len(set(every)) == len(every) == 12
    assert [key for step in (0, 1, 2) for key in keys(0, step)] == every[:6]


def test_the_model_sees_augmented_images_in_the_range_of_its_inputs(fake_config):
    """A model scales integers alone."""
    state = create_state(fake_config)

    def seen(images, augment) -> jax.Array:
        def apply_fn(variables, images, **kwargs):
            return jnp.zeros((len(images), 10)).at[:, 0].set(1), {"seen": images}

        changed = state.replace(augment=augment, apply_fn=apply_fn)
        _, collections = loss_fn(state.params, changed, BATCH | {"image": images})
        return collections["seen"]

    floats, integers = IMAGES / np.float32(255), IMAGES.astype(np.int32)
    short = floats.astype(np.float16)
    one_less = lambda key, images: images - 1  # noqa: E731
    halved = lambda key, images: images.astype(jnp.float32) / 2  # noqa: E731
    for images, augment, expected in (
        (IMAGES, None, IMAGES),
        (IMAGES, one_less, IMAGES - 1),
        (IMAGES, halved, IMAGES / np.float32(510)),
        (integers, halved, IMAGES / np.float32(510)),
        (floats, halved, floats / 2),
        (short, halved, short.astype(np.float32) / 2),
    ):
        actual = seen(jnp.asarray(images), augment)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, strict=True)


class Counter(nn.Module):
    """Its mode has no default. In training it counts the examples in a collection."""

    @nn.compact
    def __call__(self, images, train):
        count = self.variable("counts", "examples", lambda: jnp.zeros((), jnp.int32))
        if train:
            count.value += len(images)
            self.make_rng("dropout")
        return nn.Dense(10)(images.reshape(len(images), -1) / 255)


def test_a_models_other_collections_are_those_after_the_step(fake_config):
    example = jax.ShapeDtypeStruct((28, 28), "uint8")
    state = create_train_state(fake_config, Counter(), Classification(), example)
    assert set(state.params) == {"Dense_0"}
    assert set(state.collections) == {"counts"}
    state, _ = train_step(state, BATCH)
    assert int(state.collections["counts"]["examples"]) == 50
    indices = np.zeros((3, 20), np.int32)
    state, _ = train_steps(state, BATCH, indices)
    assert int(state.variables["counts"]["examples"]) == 110


def test_a_state_has_the_types_of_the_next_and_of_a_restored_one(fake_config):
    """Also which are weak; with others the next step would be another program."""
    state = create_state(fake_config)
    next_state, _ = train_step(state, BATCH)
    restored = jax.device_put(jax.device_get(state))
    types = [jax.tree.map(jax.typeof, x) for x in (state, next_state, restored)]
    assert types[0] == types[1] == types[2]


def test_detailed_metrics_have_the_gradients_and_the_new_parameters(fake_config):
    state, indices = create_state(fake_config), np.arange(20, dtype=np.int32)[None]
    batch = {name: array[:20] for name, array in BATCH.items()}
    grads, _ = jax.grad(loss_fn, has_aux=True)(state.params, state, batch)
    _, few = train_step(state, batch)
    assert few.keys() == {"loss", "learning_rate"}
    next_state, metrics = train_steps(state, BATCH, indices, detailed=True)
    assert metrics.keys() == {"loss", "learning_rate", "grad_norm", "grads", "params"}
    one_more = jax.tree.map(lambda metric: metric[0], metrics)
    norm = np.sqrt(sum(np.square(grad).sum() for grad in jax.tree.leaves(grads)))
    np.testing.assert_allclose(one_more["grad_norm"], norm, rtol=1e-5)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)
    jax.tree.map(close, one_more["grads"], grads)
    jax.tree.map(np.testing.assert_array_equal, one_more["params"], next_state.params)
    assert jax.tree.leaves(state.params)[0].is_deleted()  # Its memory is the next state's.
    _, few = train_steps(next_state, BATCH, indices)
    assert few.keys() == {"loss", "learning_rate"}


def test_members_have_the_bits_of_their_single_runs(fake_config):
    indices = RNG.integers(0, 50, (2, 4, 20)).astype(np.int32)
    fake_config.update(num_seeds=2, seed=3, augmentation="random_shift", dropout=0.2)
    several, metrics = train_steps(create_state(fake_config), BATCH, indices)
    fake_config.num_seeds = 1
    for number, its in enumerate(indices):
        fake_config.seed = 3 + number
        single, losses = train_steps(create_state(fake_config), BATCH, its)
        np.testing.assert_array_equal(metrics["loss"][:, number], losses["loss"])
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.map(lambda leaf, number=number: leaf[number], several.params),
            single.params,
        )


def test_parameters_are_float32_whatever_the_computation_is(fake_config):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        fake_config.dtype = dtype
        state, metrics = train_step(create_state(fake_config), BATCH)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        losses[dtype] = float(metrics["loss"])
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=2**-7)

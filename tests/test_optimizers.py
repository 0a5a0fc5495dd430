import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax import optimizers
from mnist_jax.runtime.errors import UserError

PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
GRADS = {"kernel": jnp.array([[0.5, 0.25]]), "bias": jnp.array([-1.0])}


def updates(config, times: int = 1) -> list[dict[str, np.ndarray]]:
    """The updates of the same gradients, again and again, at the same parameters."""
    tx = optimizers.create_optimizer(config)
    opt_state, result = tx.init(PARAMS), []
    for _ in range(times):
        update, opt_state = tx.update(GRADS, opt_state, PARAMS)
        result.append({name: np.asarray(value) for name, value in update.items()})
    return result


def assert_updates(actual, kernel, bias):
    np.testing.assert_allclose(actual["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(actual["bias"], bias, rtol=1e-5)


def test_the_default_is_the_tutorials_plain_gradient_descent(fake_config):
    (update,) = updates(fake_config)
    assert_updates(update, [[-0.005, -0.0025]], [0.01])


def test_momentum_sums_up_past_gradients(fake_config):
    fake_config.momentum = 0.5
    first, second = updates(fake_config, 2)
    assert_updates(first, [[-0.005, -0.0025]], [0.01])
    assert_updates(second, [[-0.0075, -0.00375]], [0.015])


def test_weight_decay_of_sgd_adds_to_the_gradient_of_kernels_only(fake_config):
    fake_config.weight_decay = 0.1
    (update,) = updates(fake_config)
    assert_updates(update, [[-0.006, -0.0005]], [0.01])


def test_gradients_are_clipped_to_the_global_norm(fake_config):
    fake_config.grad_clip_norm = 0.5
    norm = np.sqrt(0.5**2 + 0.25**2 + 1)
    (update,) = updates(fake_config)
    assert_updates(update, np.array([[-0.005, -0.0025]]) * 0.5 / norm, [0.01 * 0.5 / norm])


def test_gradients_below_the_norm_are_left_alone(fake_config):
    fake_config.grad_clip_norm = 5.0
    (update,) = updates(fake_config)
    assert_updates(update, [[-0.005, -0.0025]], [0.01])


def test_adams_first_update_has_the_size_of_the_learning_rate(fake_config):
    fake_config.optimizer = "adam"
    (update,) = updates(fake_config)
    assert_updates(update, [[-0.01, -0.01]], [0.01])


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_decoupled_weight_decay_applies_to_kernels_only(fake_config, optimizer):
    """Both optimizers' first update has the size of the learning rate."""
    fake_config.update(optimizer=optimizer, weight_decay=0.1)
    (update,) = updates(fake_config)
    assert_updates(update, [[-0.01 - 0.001, -0.01 + 0.002]], [0.01])


def test_adafactors_updates_are_relative_to_the_parameters(fake_config):
    """The first has the learning rate times the root mean square of each array."""
    fake_config.optimizer = "adafactor"
    (update,) = updates(fake_config)
    size = 0.01 * np.sqrt((1**2 + 2**2) / 2)
    assert_updates(update, [[-size, -size]], [0.03])


DROPS = {"drop_steps": (20, 30), "drop_factor": 0.1}


@pytest.mark.parametrize(
    ("schedule", "fields", "expected"),
    [
        ("constant", {}, {0: 0.01, 5: 0.01, 39: 0.01}),
        ("constant", {"warmup_steps": 10}, {0: 0.0, 5: 0.005, 10: 0.01, 39: 0.01}),
        ("cosine", {}, {0: 0.01, 20: 0.005, 40: 0.0}),
        ("cosine", {"warmup_steps": 10}, {0: 0.0, 5: 0.005, 10: 0.01, 25: 0.005, 40: 0.0}),
        ("cosine", {"accumulate_steps": 2}, {0: 0.01, 10: 0.005, 20: 0.0}),  # 20 updates.
        ("step", DROPS, {0: 0.01, 19: 0.01, 20: 1e-3, 29: 1e-3, 30: 1e-4, 39: 1e-4}),
        ("step", DROPS | {"warmup_steps": 10}, {0: 0.0, 5: 0.005, 10: 0.01, 20: 1e-3}),
    ],
)
def test_schedules(fake_config, schedule, fields, expected):
    fake_config.update(fields, schedule=schedule)
    rate = optimizers.create_learning_rate_schedule(fake_config)
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-9)


def test_a_warmup_that_leaves_nothing_to_the_cosine_is_refused(fake_config):
    fake_config.update(schedule="cosine", warmup_steps=39)
    optimizers.create_optimizer(fake_config)
    fake_config.warmup_steps = 40
    with pytest.raises(UserError, match=r"^config\.warmup_steps: 40 leaves nothing of 40"):
        optimizers.create_optimizer(fake_config)


@pytest.mark.parametrize(("schedule", "warmup_steps"), [("constant", 10), ("cosine", 0)])
def test_the_update_follows_the_schedule(fake_config, schedule, warmup_steps):
    fake_config.update(schedule=schedule, warmup_steps=warmup_steps)
    rate = optimizers.create_learning_rate_schedule(fake_config)
    sizes = [-update["kernel"][0, 0] for update in updates(fake_config, 12)]
    np.testing.assert_allclose(
        sizes, [0.5 * rate(step) for step in range(12)], rtol=1e-5, atol=1e-9
    )


def test_plain_gradient_descent_has_no_state(fake_config):
    assert not jax.tree.leaves(optimizers.create_optimizer(fake_config).init(PARAMS))


def test_an_update_of_several_steps_has_the_mean_of_their_gradients(fake_config):
    fake_config.accumulate_steps = 2
    for update, size in zip(updates(fake_config, 4), (0, 1, 0, 1), strict=True):
        assert_updates(update, np.array([[-0.005, -0.0025]]) * size, [0.01 * size])


@pytest.mark.parametrize(("pattern", "trained"), [("kern", "kernel"), ("^bias$", "bias")])
def test_only_parameters_whose_names_match_are_trained(fake_config, pattern, trained):
    (all_of_them,) = updates(fake_config)
    fake_config.trainable = pattern
    (update,) = updates(fake_config)
    for name, value in all_of_them.items():
        np.testing.assert_array_equal(update[name], value * (name == trained))


def test_a_pattern_that_matches_no_name_is_refused(fake_config):
    fake_config.trainable = "hidden"
    with pytest.raises(UserError, match="trainable: 'hidden' matches none of bias, kernel"):
        updates(fake_config)

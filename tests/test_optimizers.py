import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax import optimizers

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


def test_adamw_decays_kernels_only_and_decoupled(fake_config):
    fake_config.optimizer = "adamw"
    fake_config.weight_decay = 0.1
    (update,) = updates(fake_config)
    assert_updates(update, [[-0.01 - 0.001, -0.01 + 0.002]], [0.01])


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "expected"),
    [
        ("constant", 0, {0: 0.01, 5: 0.01, 39: 0.01}),
        ("constant", 10, {0: 0.0, 5: 0.005, 10: 0.01, 39: 0.01}),
        ("cosine", 0, {0: 0.01, 20: 0.005, 40: 0.0}),
        ("cosine", 10, {0: 0.0, 5: 0.005, 10: 0.01, 25: 0.005, 40: 0.0}),
    ],
)
def test_schedules(fake_config, schedule, warmup_steps, expected):
    fake_config.schedule = schedule
    fake_config.warmup_steps = warmup_steps
    rate = optimizers.create_learning_rate_schedule(fake_config)
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-9)


def test_the_update_follows_the_schedule(fake_config):
    fake_config.warmup_steps = 10
    sizes = [-update["kernel"][0, 0] for update in updates(fake_config, 12)]
    expected = [0.005 * min(step / 10, 1) for step in range(12)]
    np.testing.assert_allclose(sizes, expected, rtol=1e-5, atol=1e-9)

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.convolution import Conv, max_pool
from mnist_jax.models import CNN, MLP


def init(hidden_sizes: tuple[int, ...], seed: int = 0) -> dict:
    model = MLP(hidden_sizes=hidden_sizes, num_outputs=10)
    return model.init(jax.random.key(seed), jnp.zeros((1, 28, 28), jnp.uint8))["params"]


@pytest.mark.parametrize(
    ("hidden_sizes", "shapes"),
    [
        ((), {"softmax_linear": (784, 10)}),
        ((7,), {"hidden1": (784, 7), "softmax_linear": (7, 10)}),
        ((128, 32), {"hidden1": (784, 128), "hidden2": (128, 32), "softmax_linear": (32, 10)}),
    ],
)
def test_layers_have_the_tutorials_names_and_shapes(hidden_sizes, shapes):
    params = init(hidden_sizes)
    assert {name: layer["kernel"].shape for name, layer in params.items()} == shapes
    for layer in params.values():
        assert layer["bias"].shape == layer["kernel"].shape[1:]


def test_weights_are_drawn_as_tf_truncated_normal_draws_them():
    params = init((128, 32))
    for layer in params.values():
        kernel = np.asarray(layer["kernel"], np.float64)
        bound = 1 / np.sqrt(kernel.shape[0])
        # A unit normal cut at 2: variance 0.77374, fourth moment 1.4160.
        deviation, fourth = np.sqrt(0.773741) * bound, 1.416 * bound**4
        n = kernel.size
        assert np.abs(kernel).max() <= 2 * bound
        assert abs(kernel.mean()) < 4 * deviation / np.sqrt(n)
        error_of_variance = np.sqrt((fourth - deviation**4) / n)
        assert abs(kernel.var() - deviation**2) < 4 * error_of_variance
        assert not np.asarray(layer["bias"]).any()
    assert np.abs(np.asarray(params["hidden1"]["kernel"])).max() > 1.99 / 28


def test_the_seed_decides_the_weights():
    same, other = init((128, 32)), init((128, 32), seed=1)
    jax.tree.map(np.testing.assert_array_equal, init((128, 32)), same)
    kernel = np.asarray(same["hidden1"]["kernel"])
    assert abs(
        np.corrcoef(kernel.ravel(), np.asarray(other["hidden1"]["kernel"]).ravel())[0, 1]
    ) < (5 / np.sqrt(kernel.size))


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (128, 32)])
def test_logits_are_those_of_the_formula(hidden_sizes):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 28, 28), np.uint8)
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32), init(hidden_sizes)
    )
    x = images.reshape(5, 784) / 255.0
    for number in range(1, len(hidden_sizes) + 1):
        layer = params[f"hidden{number}"]
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    expected = x @ params["softmax_linear"]["kernel"] + params["softmax_linear"]["bias"]
    logits = MLP(hidden_sizes, 10).apply({"params": params}, jnp.asarray(images))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


def test_the_cnn_evaluates_with_running_averages_and_without_dropout():
    model, images = CNN(num_outputs=10, dropout=0.4), np.full((4, 28, 28), 99, np.uint8)
    variables = model.init(jax.random.key(0), images)
    assert set(variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(
        model.apply(variables, images), model.apply(variables, images, train=False)
    )
    outputs = []
    for seed in (1, 2):
        rngs = {"dropout": jax.random.key(seed)}
        logits, changed = model.apply(
            variables, images, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        outputs.append(np.asarray(logits))
    assert (outputs[0] != outputs[1]).any()
    # The mean of the first convolution's outputs: 0.95 of 0, and 0.05 of the batch's.
    first = jax.tree.leaves(changed["batch_stats"]["BatchNorm_0"]["mean"])[0]
    assert np.abs(first).max() > 0
    shifted = variables | {
        "batch_stats": jax.tree.map(lambda x: x + 1, variables["batch_stats"])
    }
    assert (np.asarray(model.apply(shifted, images)) != model.apply(variables, images)).any()


@pytest.mark.parametrize("shape", [(28, 28), (9, 12), (16, 20, 3), (1, 1), (3, 2, 5)])
@pytest.mark.parametrize("model", [MLP((7,), 5), CNN(5)], ids=["mlp", "cnn"])
def test_images_of_any_shape(model, shape):
    images = np.zeros((2, *shape), np.uint8)
    variables = model.init(jax.random.key(0), images)
    assert model.apply(variables, images).shape == (2, 5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (7, 9, 3), (2, 3, 2), (1, 1, 1)])
def test_the_convolution_and_the_pooling_are_those_of_flax(shape):
    """And their gradients, where a window has one maximum."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(7, *shape)), jnp.float32)
    plain, fast = nn.Conv(4, (5, 5)), Conv(4, (5, 5), padding=2)
    variables = plain.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, variables, fast.init(jax.random.key(0), images))
    window = tuple(min(2, side) for side in shape[:2])
    pairs = [
        (plain.apply, fast.apply, (variables, images)),
        (lambda x: nn.max_pool(x, window, strides=window), max_pool, (images,)),
    ]
    for theirs, ours, arguments in pairs:
        (expected, gradients), (outputs, own) = (jax.vjp(f, *arguments) for f in (theirs, ours))
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
        cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            own(cotangent),
            gradients(cotangent),
        )

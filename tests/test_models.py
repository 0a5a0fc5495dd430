import itertools
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.convolution import Conv, max_pool
from mnist_jax.models import CNN, MLP, create_model, scale
from mnist_jax.runtime.errors import UserError


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
    for inputs in (images, images / np.float32(255)):  # Floats are taken as they are.
        logits = MLP(hidden_sizes, 10).apply({"params": params}, jnp.asarray(inputs))
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(
            logits, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max()
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_integers_are_scaled_to_one_in_the_dtype_of_the_computation(dtype):
    scaled = scale(jnp.array([0, 51, 255], jnp.uint8), dtype)
    assert scaled.dtype == dtype
    np.testing.assert_allclose(scaled.astype(float), [0, 0.2, 1], rtol=jnp.finfo(dtype).eps)
    floats = scale(jnp.array([0.5, -255.0]), dtype)
    np.testing.assert_array_equal(floats, np.array([0.5, -255], dtype), strict=True)


def test_dropout_drops_hidden_units_in_training_alone():
    images = np.full((8, 4, 4), 99, np.uint8)
    without, with_it = MLP((500,), 10), MLP((500,), 10, dropout=0.2)
    # Every unit is 0.2, and every output, if no unit is dropped, 1.
    params = {
        "hidden1": {"kernel": jnp.zeros((16, 500)), "bias": jnp.full(500, 0.2)},
        "softmax_linear": {"kernel": jnp.full((500, 10), 0.01), "bias": jnp.zeros(10)},
    }
    for model, arguments in ((without, {"train": True}), (without, {}), (with_it, {})):
        outputs = model.apply({"params": params}, images, **arguments)
        np.testing.assert_allclose(outputs, 1, rtol=1e-5)
    rngs = {"dropout": jax.random.key(0)}
    outputs = with_it.apply({"params": params}, images, train=True, rngs=rngs)
    # The kept ones are divided by 0.8: binomial, with a deviation of sqrt(0.2 / 0.8 / 500).
    assert (abs(outputs - 1) < 5 * 0.0224).all()
    assert len(np.unique(outputs[:, 0])) > 1


@pytest.mark.parametrize("model", [MLP((7,), 5, "bfloat16"), CNN(5, "bfloat16")])
def test_with_16_bits_every_layer_computes_with_them(model):
    images = np.zeros((2, 12, 12), np.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    program = str(jax.make_jaxpr(model.apply)(variables, images))
    layers = r":(\w+)\[[\d,]*\] = (?:conv_general_dilated|dot_general|max)\b"
    assert set(re.findall(layers, program)) == {"bf16"}
    assert jax.eval_shape(model.apply, variables, images).dtype == jnp.float32


@pytest.mark.parametrize(
    ("hidden_sizes", "name"), [((), "softmax_linear"), ((7, 3), "hidden1")]
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_the_weights_of_the_first_layer_are_images(hidden_sizes, name, channels):
    model, images = MLP(hidden_sizes, 5), np.zeros((1, 6, 8, *channels), np.uint8)
    params = model.init(jax.random.key(0), images)["params"]
    kernel = np.asarray(params[name]["kernel"]).reshape(6, 8, -1, *params[name]["bias"].shape)
    expected = kernel.mean(axis=2).transpose(2, 0, 1)
    actual = model.first_layer_images(params, images.shape[1:])
    assert isinstance(actual, np.ndarray)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9, strict=True)


def test_a_field_that_the_model_ignores_is_refused_but_in_a_saved_config(fake_config):
    fake_config.update(model="cnn", hidden_sizes=(7,))
    with pytest.raises(UserError, match=r"hidden_sizes: \(7,\) is ignored by config.model=cnn"):
        create_model(fake_config, 10)
    assert create_model(fake_config, 10, is_saved=True) == CNN(10)


@pytest.mark.parametrize(
    ("fields", "channels", "kernels"),
    [
        ({}, (), [(5, 5, 1, 16), (5, 5, 16, 32)]),
        ({}, (3,), [(5, 5, 3, 16), (5, 5, 16, 32)]),
        # Two stages, of which the second one has two convolutions.
        ({"conv_features": (4, 6, 6)}, (), [(5, 5, 1, 4), (3, 3, 4, 6), (3, 3, 6, 6)]),
    ],
    ids=["grey", "colour", "stages"],
)
def test_the_cnns_logits_are_those_of_the_formula(fields, channels, kernels):
    model, rng = CNN(num_outputs=5, **fields), np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 28, 28, *channels), np.uint8)
    variables = jax.tree.map(
        # Variances are positive; kernels have both signs.
        lambda x: np.float32(rng.uniform(0.1 if x.ndim == 1 else -0.5, 0.5, x.shape)),
        model.init(jax.random.key(0), images),
    )
    params, averages = variables["params"], variables["batch_stats"]
    x = images.reshape(3, 28, 28, -1) / np.float32(255)
    for i, shape in enumerate(kernels):
        assert {n: w.shape for n, w in params[f"Conv_{i}"].items()} == {"kernel": shape}
        kernel, norm = params[f"Conv_{i}"]["kernel"], params[f"BatchNorm_{i}"]
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        mean, var = (averages[f"BatchNorm_{i}"][name] for name in ("mean", "var"))
        x = (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        # A stage ends where the width changes.
        is_last = shape[-1] not in [following[-1] for following in kernels[i + 1 : i + 2]]
        x = np.maximum(nn.max_pool(x, (2, 2), (2, 2)) if is_last else x, 0)
    x = np.asarray(x).reshape(3, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    assert x.shape == (3, 128)
    expected = np.maximum(x, 0) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-4, atol=1e-3)


def test_the_cnn_evaluates_with_running_averages_and_without_dropout():
    model, images = CNN(num_outputs=10, dropout=0.4), np.full((4, 12, 12), 99, np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert set(variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(
        model.apply(variables, images), model.apply(variables, images, train=False)
    )
    outputs, averages = [], [variables["batch_stats"]]
    for seed in (1, 2):
        rngs = {"dropout": jax.random.key(seed)}
        logits, changed = model.apply(
            variables | {"batch_stats": averages[-1]},
            images,
            train=True,
            rngs=rngs,
            mutable=["batch_stats"],
        )
        outputs.append(np.asarray(logits))
        averages.append(changed["batch_stats"])
    assert (outputs[0] != outputs[1]).any()
    # Each step moves the averages by a twentieth of the way to the same batch's.
    first, second = (jax.tree.map(np.subtract, b, a) for a, b in itertools.pairwise(averages))
    assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves(first))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
        second,
        jax.tree.map(lambda x: 0.95 * x, first),
    )
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


@pytest.mark.parametrize("shape", [(7, 28, 28, 1), (6, 7, 9, 3), (3, 2, 3, 2), (1,) * 4])
def test_the_convolution_and_the_pooling_are_those_of_flax(shape):
    """And their gradients, where a window has one maximum."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=shape), jnp.float32)
    plain, fast = nn.Conv(4, (5, 5)), Conv(4, (5, 5), padding=2)
    variables = plain.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, variables, fast.init(jax.random.key(0), images))
    window = tuple(min(2, side) for side in shape[1:3])
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

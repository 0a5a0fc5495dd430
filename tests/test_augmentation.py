import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.augmentation import (
    AUGMENTATIONS,
    affine,
    affine_terms,
    create_augmentation,
    elastic,
    noise_terms,
    random_shift,
    sample,
)
from mnist_jax.runtime.errors import UserError


@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_are_shifted_by_up_to_two_pixels(channels: tuple[int, ...]):
    images = np.zeros((200, 9, 12, *channels), np.uint8)
    images[:, 4, 5] = 255
    shifted = np.asarray(random_shift(jax.random.key(0), images))
    assert shifted.shape == images.shape
    _, rows, places = np.nonzero(shifted.reshape(200, 9, 12, -1)[..., 0])
    assert (set(rows), set(places)) == (set(range(2, 7)), set(range(3, 8)))
    assert (shifted.reshape(200, -1) == 255).sum(axis=1).tolist() == [
        max(1, *channels, 1)
    ] * 200


def test_the_key_decides():
    images = np.arange(4 * 28 * 28).reshape(4, 28, 28).astype(np.uint8)
    one, same, other = (np.asarray(random_shift(jax.random.key(k), images)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_an_unknown_name_is_an_error(fake_config):
    assert create_augmentation(fake_config) is None
    fake_config.augmentation = "flip"
    with pytest.raises(UserError, match="'flip' is none of random_shift, affine, elastic"):
        create_augmentation(fake_config)


def test_strengths_are_given_with_the_name(fake_config):
    fake_config.augmentation = "elastic(strength=20, shift=2.5)"
    augment = create_augmentation(fake_config)
    images, key = random_images(5, 9, 12), jax.random.key(0)
    expected = elastic(key, images, strength=20.0, shift=2.5)
    np.testing.assert_array_equal(augment(key, images), expected)
    assert (np.asarray(expected) != elastic(key, images)).any()
    # So that what one compiled serves the other.
    assert create_augmentation(fake_config) == augment


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("elastic(strengh=20)", "argument 'strengh'"),
        ("affine(strength=20)", "argument 'strength'"),
        ("random_shift(size=3)", "argument 'size'"),
        ("elastic(20)", "takes 2 positional arguments but 3"),
        ("elastic(strength='much')", "'much'"),
        ("elastic(strength=20", "never closed"),
        ("elastic(strength=print)", "malformed"),
        ("elastic(strength=20).x", "Attribute"),
        ("flip(strength=20)", "is none of random_shift"),
    ],
)
def test_strengths_that_do_not_exist_are_an_error(fake_config, text, problem):
    fake_config.augmentation = text
    message = re.escape(f"config.augmentation: {text!r}") + f".*{problem}"
    with pytest.raises(UserError, match=message):
        create_augmentation(fake_config)


def test_the_changes_of_a_key_never_change():
    """Checkpoints of earlier versions go on with the images that they would have had."""
    dot = np.zeros((4, 9, 9), np.uint8)
    dot[:, 4, 4] = 1
    places = np.argwhere(random_shift(jax.random.key(0), dot))[:, 1:]
    np.testing.assert_array_equal(places, [[2, 6], [4, 3], [5, 4], [4, 3]])
    positions = np.matmul(*affine_terms(jax.random.key(0), (2, 28, 28)))
    np.testing.assert_allclose(
        positions[:, :, 242], [[9.707117, 8.267035], [20.196178, 17.448284]], rtol=1e-5
    )
    # The signs of the modes of its noise are LAPACK's.
    images, key = random_images(5, 9, 12), jax.random.key(0)
    named = elastic(key, images, strength=37.0, sigma=5.0)
    np.testing.assert_array_equal(elastic(key, images), named)


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def grid(height: int, width: int) -> np.ndarray:
    """The positions of the pixels, y and x, for one image."""
    return np.mgrid[:height, :width].reshape(2, 1, -1).astype(np.float32)


@pytest.mark.parametrize(
    "shape", [(5, 28, 28), (5, 9, 12), (5, 9, 12, 3), (5, 1, 12), (5, 9, 1)]
)
def test_no_strength_is_the_identity_to_the_bit(shape: tuple[int, ...]):
    images = random_images(*shape)
    none = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0}
    key = jax.random.key(0)
    np.testing.assert_array_equal(affine(key, images, **none), images)
    np.testing.assert_array_equal(elastic(key, images, strength=0.0, **none), images)
    one = elastic(key, images, strength=0.0)
    np.testing.assert_allclose(one, affine(jax.random.split(key)[0], images), atol=1e-2)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_known_shifts_are_exact_and_zero_comes_in(channels: tuple[int, ...]):
    images = random_images(2, 9, 12, *channels)
    y, x = grid(9, 12)
    for down, right in ((2, 0), (0, -3), (-3, 4), (8, 11), (20, 0), (0, -50)):
        padded = np.pad(images, [(0, 0), (50, 50), (50, 50)] + [(0, 0)] * len(channels))
        expected = padded[:, 50 + down : 59 + down, 50 + right : 62 + right]
        np.testing.assert_array_equal(sample(images, y + down, x + right), expected)


def test_a_quarter_turn_and_a_mirror_are_exact():
    images = random_images(1, 11, 11)
    y, x = grid(11, 11)
    np.testing.assert_array_equal(sample(images, x, 10 - y)[0], np.rot90(images[0]))
    np.testing.assert_array_equal(sample(images, y, 10 - x)[0], images[0][:, ::-1])


def test_between_pixels_the_four_neighbours_are_weighted():
    image = np.array([[[0, 100], [200, 40]]], np.uint8)
    for y, x, expected in (
        (0.5, 0.5, 85.0),
        (0.25, 0.0, 50.0),
        (0.0, 0.75, 75.0),
        (-0.5, 1, 50),
    ):
        positions = np.full((1, 4), y, np.float32), np.full((1, 4), x, np.float32)
        np.testing.assert_allclose(sample(image, *positions), expected, rtol=1e-6)


def test_affine_changes_are_uniform_and_independent():
    """Each image is scaled, sheared, then rotated about its centre, and shifted.

    Of 4,000 uniform draws the largest exceeds 0.99 of the bound, but for 1e-17; correlations
    and means stay within five standard errors.
    """
    count, height, width = 4000, 5, 8
    bounds = {"rotation": 30.0, "scale": 0.2, "shear": 0.3, "shift": 1.5}
    terms = affine_terms(jax.random.key(3), (count, height, width), **bounds)
    positions = np.matmul(*terms).reshape(2, count, height, width)
    down = positions[:, :, 1, 0] - positions[:, :, 0, 0]
    right = positions[:, :, 0, 1] - positions[:, :, 0, 0]
    centre = positions.mean(axis=(2, 3))
    rows, columns = np.mgrid[-2:3, -3.5:4.5]
    np.testing.assert_allclose(
        positions,
        centre[..., None, None]
        + down[..., None, None] * rows
        + right[..., None, None] * columns,
        atol=1e-4,
    )
    angle = np.arctan2(*right)  # Scales and shear leave the direction of the rows.
    sin, cos = np.sin(angle), np.cos(angle)
    drawn = {
        "rotation": [np.rad2deg(angle)],
        "scale": [cos * down[0] - sin * down[1] - 1, np.linalg.norm(right, axis=0) - 1],
        "shear": [sin * down[0] + cos * down[1]],
        "shift": [centre[0] - 2, centre[1] - 3.5],
    }
    shares = np.concatenate([np.divide(drawn[name], bounds[name]) for name in bounds])
    assert (abs(shares) < 1.001).all()
    assert (abs(shares).max(axis=1) > 0.99).all()
    assert (abs(shares.mean(axis=1)) < 5 / np.sqrt(3 * count)).all()
    assert (abs(np.corrcoef(shares) - np.eye(6)) < 5 / np.sqrt(count)).all()


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_noise_has_the_covariance_of_smoothed_uniform_noise(sigma: float):
    """Within six standard errors of 20,000 fields, and the 0.1 % of the variance left out."""
    height, width, count = 9, 12, 10_000
    terms = noise_terms(jax.random.key(4), (count, height, width), sigma)
    assert (terms[0].dtype, terms[1].dtype) == (np.float32, np.float32)
    fields = np.asarray(jnp.matmul(*terms)).reshape(2 * count, -1)

    def covariance(size: int) -> np.ndarray:
        distance = np.subtract.outer(np.arange(size), np.arange(size))
        weights = np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        return weights @ weights.T

    expected = np.kron(covariance(height), covariance(width)) / 3
    # The sum of the eigenvalues left out bounds every entry of what they add up to.
    left_out = np.trace(expected) - np.square(terms[1]).sum()
    assert 0 <= left_out <= 0.001001 * np.trace(expected)
    least = np.square(terms[1]).sum(axis=1).min()  # There are no more modes than it needs.
    assert left_out + least > 0.001 * np.trace(expected)
    actual = fields.T @ fields / len(fields)
    variances = np.diag(expected)
    # Of normal numbers a and b: var(ab) = var(a) var(b) + cov(a, b)^2.
    error = np.sqrt((np.outer(variances, variances) + expected**2) / len(fields))
    assert (np.abs(actual - expected) < 6 * error + left_out).all()


@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_distortions_differ_by_image_and_key_and_not_by_how_they_are_mapped(name: str):
    distort = AUGMENTATIONS[name]
    images = np.repeat(random_images(1, 28, 28), 4, axis=0)
    keys = jax.random.split(jax.random.key(5), 3)
    each = [np.asarray(jax.jit(distort)(key, images)) for key in keys]
    assert len(np.unique(np.reshape(each, (12, -1)), axis=0)) == 12
    np.testing.assert_array_equal(jax.jit(distort)(keys[0], images), each[0])
    mapped = jax.jit(lambda keys: jax.lax.map(lambda key: distort(key, images), keys))(keys)
    np.testing.assert_array_equal(mapped, each)
    together = jax.jit(jax.vmap(distort, (0, None)))(keys, images)
    np.testing.assert_allclose(together, each, atol=0.01)
    assert each[0].min() >= 0
    assert each[0].max() <= 255

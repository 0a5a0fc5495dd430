"""Random changes of the training images, inside the step: pure functions of (key, images).

Each gets the step's PRNG key and the images of the batch, `[batch, height, width]`, or with
channels: integers from 0 to 255, or floats. It returns images of the same shape and range.
"""

import ast
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import refusing

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def random_shift(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shifts each image by up to two pixels in each direction; fills with zeros."""
    size = 2

    def shift(image: jax.Array, offset: jax.Array) -> jax.Array:
        margins = [(size, size), (size, size)] + [(0, 0)] * (image.ndim - 2)
        start = (*offset, *[0] * (image.ndim - 2))
        return jax.lax.dynamic_slice(jnp.pad(image, margins), start, image.shape)

    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * size + 1)
    return jax.vmap(shift)(images, offsets)


def affine(key: jax.Array, images: jax.Array, **strengths: float) -> jax.Array:
    """Rotates, scales, shears and shifts each image; see `affine_terms`."""
    factors, basis = affine_terms(key, images.shape, **strengths)
    return sample(images, *jnp.matmul(factors, basis, precision="highest"))


def elastic(
    key: jax.Array,
    images: jax.Array,
    *,
    strength: float = 37.0,
    sigma: float = 5.0,
    **strengths: float,
) -> jax.Array:
    """Distorts each image elastically, after an affine change, in one interpolation.

    The displacement of a pixel is that of Simard, Steinkraus and Platt (2003): `strength`
    pixels times a Gaussian average, of standard deviation `sigma` pixels, of uniform noise in
    ±1. With the defaults its standard deviation is 1.2 pixels in the middle of an image.
    The other `strengths` are those of `affine_terms`.
    """
    affine_key, noise_key = jax.random.split(key)
    factors, basis = affine_terms(affine_key, images.shape, **strengths)
    noise, modes = noise_terms(noise_key, images.shape, sigma)
    # One product gives both, in memory: XLA computes a sum again at each of its uses. The
    # strength is in the constants: times the noise, several devices would round differently.
    factors = jnp.concatenate([factors, noise], axis=2)
    basis = np.concatenate([basis, strength * modes])
    return sample(images, *jnp.matmul(factors, basis, precision="highest"))


def affine_terms(
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    rotation: float = 12.0,
    scale: float = 0.12,
    shear: float = 0.12,
    shift: float = 1.0,
) -> tuple[jax.Array, np.ndarray]:
    """Draws a change of each image about its centre.

    Each strength is the largest absolute value of a uniform distribution: `rotation` in
    degrees, `scale` of each axis as a fraction, `shear` in pixels per pixel, `shift` in pixels.

    Returns:
      Factors `float32[2, batch, 3]` and a basis `float32[3, height * width]`. Their product is
      the position in the image, y and x, of each pixel of the result.
    """
    batch, height, width = shape[:3]
    draws = jax.random.uniform(key, (6, batch), minval=-1.0, maxval=1.0)
    angle = math.radians(rotation) * draws[0]
    scale_y, scale_x, slope = 1 + scale * draws[1], 1 + scale * draws[2], shear * draws[3]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    y = [cos * scale_y + sin * slope, sin * scale_x, centre_y + shift * draws[4]]
    x = [cos * slope - sin * scale_y, cos * scale_x, centre_x + shift * draws[5]]
    row, column = np.mgrid[:height, :width].reshape(2, -1)
    basis = np.stack([row - centre_y, column - centre_x, np.ones(row.shape)])
    return jnp.array([y, x]).transpose(0, 2, 1), basis.astype(np.float32)


def noise_terms(
    key: jax.Array, shape: tuple[int, ...], sigma: float
) -> tuple[jax.Array, np.ndarray]:
    """Draws normal noise with the covariance of uniform noise in ±1, averaged by a Gaussian.

    The Gaussian has a standard deviation of `sigma` pixels. The average of many numbers is
    nearly normal, and has few degrees of freedom. So few normal numbers are drawn: the factors
    of the modes that make 99.9 % of the variance, 23 of 28x28 pixels at a `sigma` of 5. Their
    number grows with the pixels, and with 1 / sigma^2.

    Returns:
      Factors `float32[2, batch, modes]` and a basis `float32[modes, height * width]`, whose
      product is the noise.
    """
    batch, height, width = shape[:3]
    modes = _modes(height, width, sigma)
    return jax.random.normal(key, (2, batch, len(modes))), modes


@functools.cache
def _modes(height: int, width: int, sigma: float) -> np.ndarray:
    """Returns M, where M^T M is the covariance of the noise: `float32[modes, pixels]`."""

    def along(size: int) -> np.ndarray:
        distances = np.subtract.outer(np.arange(size), np.arange(size)) / sigma
        average = np.exp(-(distances**2) / 2) / (sigma * math.sqrt(2 * math.pi))
        vectors, values, _ = np.linalg.svd(average)
        return (vectors * values).T

    rows, columns = along(height), along(width)
    variances = np.outer(np.square(rows).sum(axis=1), np.square(columns).sum(axis=1)).ravel()
    order = np.argsort(-variances)
    count = np.searchsorted(np.cumsum(variances[order]), 0.999 * variances.sum()) + 1
    row, column = np.divmod(order[:count], width)
    modes = rows[row][:, :, None] * columns[column][:, None, :] / math.sqrt(3)
    return modes.reshape(count, -1).astype(np.float32)


def sample(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the images at the positions `y` and `x`, interpolated between four pixels.

    Args:
      images: `uint8[batch, height, width]`, or with channels; zero outside.
      y: For each pixel of the result, `float32[batch, height * width]`; in pixels from the
        centre of the first one.
      x: Likewise.

    Returns:
      `float32` of the images' shape.
    """
    if images.ndim == 4:
        return jax.vmap(sample, (3, None, None), 3)(images, y, x)
    _, height, width = images.shape
    # With a row and a column of zeros, each pixel is the first of four neighbours; outside,
    # their weights fall to 0. Besides, XLA would otherwise gather the batch for each of them.
    pixels = jnp.pad(images, [(0, 0), (0, 1), (0, 1)])
    top, left = jnp.floor(jnp.clip(y, 0, height - 1)), jnp.floor(jnp.clip(x, 0, width - 1))
    first = jnp.arange(len(pixels))[:, None] * pixels[0].size
    indices = first + (top * (width + 1) + left).astype(jnp.int32)

    def pixel(offset: int) -> jax.Array:
        found = pixels.reshape(-1).at[indices + offset].get(mode="promise_in_bounds")
        return found.astype(jnp.float32)

    def weights(distance: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.maximum(1 - abs(distance), 0), jnp.maximum(1 - abs(distance - 1), 0)

    (above, below), (before, after) = weights(y - top), weights(x - left)
    upper = before * pixel(0) + after * pixel(1)
    lower = before * pixel(width + 1) + after * pixel(width + 2)
    return (above * upper + below * lower).reshape(images.shape)


AUGMENTATIONS: dict[str, Augmentation] = {
    "random_shift": random_shift,
    "affine": affine,
    "elastic": elastic,
}


def create_augmentation(config: ConfigDict) -> Augmentation | None:
    """Returns the function that the config names, like `elastic` or `elastic(strength=20)`.

    Raises:
      UserError: There is no such function, or no such strength.
    """
    if not config.augmentation:
        return None
    name, has_strengths, _ = config.augmentation.partition("(")
    if name not in AUGMENTATIONS or not has_strengths:
        return config_lib.choose(config, "augmentation", AUGMENTATIONS)
    advice = f"give strengths as in {name}(NAME=NUMBER, ...); see augmentation.py"
    with refusing(f"config.augmentation: {config.augmentation!r}", advice, Exception):
        return _with_strengths(config.augmentation)


@functools.cache  # Equal functions for equal texts: jit compiles once.
def _with_strengths(text: str) -> Augmentation:
    call: Any = ast.parse(text, mode="eval").body
    strengths = {each.arg: float(ast.literal_eval(each.value)) for each in call.keywords}
    augment = functools.partial(AUGMENTATIONS[call.func.id], *call.args, **strengths)
    jax.eval_shape(augment, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28), "uint8"))
    return augment

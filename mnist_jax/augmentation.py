"""Random changes of the training images, inside the step: pure functions of (key, images).

Each gets a PRNG key, a function of the step, and a batch as the model's: `uint8[batch, height,
width]`, or with channels. It returns images of the same shape and of any dtype, 0 to 255.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mnist_jax.runtime.errors import UserError

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


def affine(key: jax.Array, images: jax.Array) -> jax.Array:
    """Rotates, scales, shears and shifts each image; see `affine_positions`."""
    return sample(images, *affine_positions(key, images))


def elastic(
    key: jax.Array, images: jax.Array, *, strength: float = 37.0, sigma: float = 5.0
) -> jax.Array:
    """Distorts each image elastically, after an affine change, in one interpolation.

    The displacement of a pixel is that of Simard, Steinkraus and Platt (2003): `strength`
    pixels times a Gaussian average, of standard deviation `sigma` pixels, of uniform noise in
    ±1. With the defaults its standard deviation is 1.2 pixels in the middle of an image.
    """
    affine_key, field_key = jax.random.split(key)
    y, x = affine_positions(affine_key, images)
    dy, dx = strength * smooth_noise(field_key, (2, *images.shape[:3]), sigma)
    return sample(images, y + dy, x + dx)


def affine_positions(
    key: jax.Array,
    images: jax.Array,
    *,
    rotation: float = 12.0,
    scale: float = 0.12,
    shear: float = 0.12,
    shift: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Draws a change of each image about its centre.

    Each strength is the largest absolute value of a uniform distribution: `rotation` in
    degrees, `scale` of each axis as a fraction, `shear` in pixels per pixel, `shift` in pixels.

    Returns:
      For each pixel of the result its position in the image, y and x, each
      `float32[batch, height, width]`.
    """
    batch, height, width = images.shape[:3]
    draws = jax.random.uniform(key, (6, batch, 1, 1), minval=-1.0, maxval=1.0)
    angle = math.radians(rotation) * draws[0]
    scale_y, scale_x, slope = 1 + scale * draws[1], 1 + scale * draws[2], shear * draws[3]
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32)[None, :, None] - centre_y
    x = jnp.arange(width, dtype=jnp.float32)[None, None, :] - centre_x
    sheared = slope * y + scale_x * x
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (
        cos * scale_y * y + sin * sheared + (centre_y + shift * draws[4]),
        cos * sheared - sin * scale_y * y + (centre_x + shift * draws[5]),
    )


def smooth_noise(key: jax.Array, shape: tuple[int, ...], sigma: float) -> jax.Array:
    """Draws uniform noise in ±1, averaged by a Gaussian of `sigma` pixels in each image.

    The average of so many numbers is normal, and has few degrees of freedom. So few normal
    numbers are drawn, and get the same covariance: that of the separable Gaussian.
    """
    *batch, height, width = shape
    by_row, by_column = _covariance_root(height, sigma), _covariance_root(width, sigma)
    # 1/3 is the variance of the uniform noise.
    draws = jax.random.normal(key, (*batch, by_row.shape[1], by_column.shape[1])) / math.sqrt(3)
    return jnp.einsum("yi,...ij,xj->...yx", by_row, draws, by_column)


@functools.cache
def _covariance_root(size: int, sigma: float) -> np.ndarray:
    """Returns R with R R^T = G G^T, where G averages `size` pixels: `float32[size, rank]`."""
    distances = np.subtract.outer(np.arange(size), np.arange(size)) / sigma
    average = np.exp(-(distances**2) / 2) / (sigma * math.sqrt(2 * math.pi))
    vectors, values, _ = np.linalg.svd(average)
    return (vectors * values)[:, values > 1e-3 * values[0]].astype(np.float32)


def sample(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the images at the positions `y` and `x`, interpolated between four pixels.

    Args:
      images: `uint8[batch, height, width]`, or with channels; zero outside.
      y: `float32[batch, height, width]`, in pixels from the centre of the first one.
      x: Likewise.

    Returns:
      `float32` of the images' shape.
    """
    batch, height, width, *channels = images.shape
    # One gather instead of four: each word has a pixel, its right and its lower neighbours.
    padding = [(0, 0), (1, 2), (1, 2)] + [(0, 0)] * len(channels)
    pixels = jnp.pad(images, padding).astype(jnp.uint32)
    upper = pixels[:, :-1, :-1] | pixels[:, :-1, 1:] << 8
    words = upper | pixels[:, 1:, :-1] << 16 | pixels[:, 1:, 1:] << 24
    # The barriers keep XLA from computing the positions again for each use of them.
    y, x = jax.lax.optimization_barrier((y, x))
    y, x = jnp.clip(y + 1, 0, height + 1), jnp.clip(x + 1, 0, width + 1)
    top, left = jnp.floor(y), jnp.floor(x)
    first = jnp.arange(batch)[:, None, None] * ((height + 2) * (width + 2))
    indices = first + (top * (width + 2) + left).astype(jnp.int32)
    words, indices, down, right = jax.lax.optimization_barrier(
        (words, indices, y - top, x - left)
    )
    found = words.reshape(-1, *channels).at[indices].get(mode="promise_in_bounds")
    found = jax.lax.optimization_barrier(found)
    if channels:
        down, right = down[..., None], right[..., None]

    def pixel(number: int) -> jax.Array:
        return (found >> (8 * number) & 255).astype(jnp.int32).astype(jnp.float32)

    above = pixel(0) + right * (pixel(1) - pixel(0))
    below = pixel(2) + right * (pixel(3) - pixel(2))
    return above + down * (below - above)


_AUGMENTATIONS: dict[str, Augmentation] = {
    "random_shift": random_shift,
    "affine": affine,
    "elastic": elastic,
}


def create_augmentation(name: str) -> Augmentation | None:
    """Returns the function of that name, None for ''; raises UserError if there is none."""
    if name and name not in _AUGMENTATIONS:
        choices = ", ".join(_AUGMENTATIONS)
        raise UserError(f"config.augmentation: {name!r} is not in augmentation.py: {choices}")
    return _AUGMENTATIONS.get(name)

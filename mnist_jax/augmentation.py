"""Random changes of the training images, inside the step: pure functions of (key, images).

Each gets a PRNG key, a function of the step, and a batch as the model's: `uint8[batch, height,
width]`, or with channels. It returns images of the same shape and of any dtype, 0 to 255.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

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


_AUGMENTATIONS: dict[str, Augmentation] = {"random_shift": random_shift}


def create_augmentation(name: str) -> Augmentation | None:
    """Returns the function of that name, None for ''; raises UserError if there is none."""
    if name and name not in _AUGMENTATIONS:
        choices = ", ".join(_AUGMENTATIONS)
        raise UserError(f"config.augmentation: {name!r} is not in augmentation.py: {choices}")
    return _AUGMENTATIONS.get(name)

"""The CNN's convolution and pooling: those of Flax, with gradients that are fast on a CPU."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the maximum of each window of 2x2; a last odd row or column is left out."""
    height, width = (min(2, side) for side in x.shape[1:3])
    x = x[:, : x.shape[1] // height * height, : x.shape[2] // width * width]
    corners = [x[:, i::height, j::width] for i, j in np.ndindex(height, width)]
    return functools.reduce(jnp.maximum, corners)


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Computes an `nn.Conv` whose result has the size of the images.

    Of the gradients that JAX derives, XLA's CPU backend computes one slowly, and in a scan
    both, 50 times as slowly. These are convolutions of the form that it knows best.
    """

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    @jax.custom_vjp
    def on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if x.shape[-1] > 1:
            return conv(x, kernel)
        # One channel: a sum of shifted images, which XLA computes in one loop.
        (height, width), x = x.shape[1:3], jnp.pad(x, [(0, 0), *padding, (0, 0)])
        terms = [
            x[:, i : i + height, j : j + width] * kernel[i : i + 1, j : j + 1]
            for i, j in np.ndindex(*kernel.shape[:2])
        ]
        return functools.reduce(jnp.add, terms)

    def gradients(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, ...]:
        x, kernel = saved
        x_grad = conv(grad, kernel[::-1, ::-1].swapaxes(2, 3))
        # By fifths of the batch, which fit into a core's cache.
        fifths = [(x[start::5], grad[start::5]) for start in range(5)]
        parts = [conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)) for x, g in fifths]
        return x_grad, functools.reduce(jnp.add, parts).transpose(1, 2, 0, 3)

    on_cpu.defvjp(lambda x, kernel: (on_cpu(x, kernel), (x, kernel)), gradients)
    return (on_cpu if jax.default_backend() == "cpu" else conv)(x, kernel)


# With a kernel of odd sides and half of them as `padding`.
Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)

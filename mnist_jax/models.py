"""The network of the tutorial: fully connected ReLU layers under a linear one."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict


def create_model(config: ConfigDict, num_classes: int) -> "MLP":
    """Returns the network that the config describes."""
    return MLP(hidden_sizes=tuple(config.hidden_sizes), num_classes=num_classes)


def truncated_normal_by_fan_in(
    key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Draws the tutorial's initial weights: N(0, 1/fan_in), truncated at two deviations.

    The same distribution as `tf.truncated_normal(shape, stddev=1/sqrt(fan_in))`. That is the
    standard deviation before truncation; the weights' own is 0.8796/sqrt(fan_in).

    Args:
      key: PRNG key.
      shape: `[fan_in, fan_out]`, the shape of the result.
      dtype: The dtype of the result, a floating-point one.
    """
    # Drawn as one row: the same bits, and half the compile time, because XLA's CPU compiler
    # unrolls short rows like those of ten classes.
    unit = jax.random.truncated_normal(key, -2.0, 2.0, (math.prod(shape),), dtype)
    return unit.reshape(shape) / math.sqrt(shape[0])


class MLP(nn.Module):
    """`hidden1` … `hiddenN` with ReLU, then the linear `softmax_linear`.

    Attributes:
      hidden_sizes: Widths of the ReLU layers; may be empty.
      num_classes: Width of the output.
    """

    hidden_sizes: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits.

        Args:
          images: `uint8[batch, height, width]`, 0 to 255.

        Returns:
          Logits, `float32[batch, num_classes]`.
        """
        x = images.reshape(images.shape[0], -1).astype(jnp.float32) / 255.0
        for number, size in enumerate(self.hidden_sizes, start=1):
            name = f"hidden{number}"
            x = nn.Dense(size, kernel_init=truncated_normal_by_fan_in, name=name)(x)
            # Puts the ReLU into its layer's box in TensorBoard's graph.
            with jax.named_scope(name):
                x = nn.relu(x)
        return nn.Dense(
            self.num_classes, kernel_init=truncated_normal_by_fan_in, name="softmax_linear"
        )(x)

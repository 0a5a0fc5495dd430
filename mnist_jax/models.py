"""The networks: the tutorial's fully connected one, and a small convolutional one.

A model is a Flax module that computes outputs, such as logits, from its inputs:

    outputs = model.apply(variables, images, train=False)

The inputs are those of the dataset, with their dtype: images are `uint8[batch, height, width]`,
0 to 255, or have a last axis of channels; a table is `float32[batch, columns]`. The outputs are
`float32[batch, num_outputs]`. With `train=True` a model gets the PRNG key `dropout`, a function
of the step, and may change its other collections, such as `batch_stats`. `dtype` is that of the
computation; the variables are float32. A field of the name of a config field gets its value.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mnist_jax.convolution import Conv, max_pool
from mnist_jax.runtime import config as config_lib


def truncated_normal_by_fan_in(
    key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Draws the tutorial's initial weights: N(0, 1/fan_in), truncated at two deviations.

    The same distribution as `tf.truncated_normal(shape, stddev=1/sqrt(fan_in))`, with `shape`
    `[fan_in, fan_out]`. The weights' own standard deviation is 0.8796/sqrt(fan_in).
    """
    # Drawn as one row: the same bits, and half the compile time, because XLA's CPU compiler
    # unrolls short rows like those of ten classes.
    unit = jax.random.truncated_normal(key, -2.0, 2.0, (math.prod(shape),), dtype)
    return unit.reshape(shape) / math.sqrt(shape[0])


def scale(images: jax.Array, dtype: str) -> jax.Array:
    """Returns integers, of which 255 is white, as numbers from 0 to 1; others as they are."""
    is_integer = jnp.issubdtype(images.dtype, jnp.integer)
    return images.astype(dtype) / 255.0 if is_integer else images.astype(dtype)


class MLP(nn.Module):
    """`hidden1` … `hiddenN` with ReLU, of the widths `hidden_sizes`, then `softmax_linear`."""

    hidden_sizes: tuple[int, ...]
    num_outputs: int
    dtype: str = "float32"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Computes the outputs; see the head of this file."""
        x = scale(images.reshape(images.shape[0], -1), self.dtype)
        for number, size in enumerate(self.hidden_sizes, start=1):
            name = f"hidden{number}"
            x = self._dense(size, name)(x)
            # Puts what follows into its layer's box in TensorBoard's graph.
            with jax.named_scope(name):
                x = nn.relu(x)
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self._dense(self.num_outputs, "softmax_linear")(x).astype(jnp.float32)

    def _dense(self, size: int, name: str) -> nn.Dense:
        init = truncated_normal_by_fan_in
        return nn.Dense(size, dtype=self.dtype, kernel_init=init, name=name)

    def first_layer_images(
        self, params: Mapping[str, Any], image_shape: Sequence[int]
    ) -> np.ndarray:
        """Returns each unit's weights as an image, `float32[units, height, width]`.

        Optional for a model: where it exists, the run draws a figure of the result. The
        weights of several channels are averaged.
        """
        layer = "hidden1" if self.hidden_sizes else "softmax_linear"
        kernel = np.asarray(params[layer]["kernel"])
        return kernel.T.reshape(-1, *image_shape[:2], *image_shape[2:] or (1,)).mean(axis=-1)


class CNN(nn.Module):
    """Convolutions with batch norm and ReLU, then a hidden layer with dropout.

    Equal widths in `conv_features` are a stage, which ends with max pooling: one convolution of
    5x5, or several of 3x3.
    """

    num_outputs: int
    dtype: str = "float32"
    dropout: float = 0.0
    conv_features: tuple[int, ...] = (16, 32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Computes the outputs; see the head of this file."""
        x = scale(images.reshape(*images.shape[:3], -1), self.dtype)
        for features, stage in itertools.groupby(self.conv_features):
            depth = len(list(stage))
            padding = 2 if depth == 1 else 1
            size = (2 * padding + 1, 2 * padding + 1)
            for number in range(1, depth + 1):
                x = Conv(features, size, padding=padding, use_bias=False, dtype=self.dtype)(x)
                norm = nn.BatchNorm(momentum=0.95, dtype=self.dtype)
                x = norm(x, use_running_average=not train)
                x = nn.relu(max_pool(x) if number == depth else x)
        x = nn.relu(nn.Dense(128, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_outputs, dtype=self.dtype)(x).astype(jnp.float32)


MODELS = {"mlp": MLP, "cnn": CNN}


def create_model(config: ConfigDict, num_outputs: int, *, is_saved: bool = False) -> nn.Module:
    """Returns the network that the config names; see `config.create`."""
    return config_lib.create(
        config, "model", MODELS, nn.Module, is_saved=is_saved, num_outputs=num_outputs
    )

"""The config mnist_jax/configs/mnist_5k.py, under a shorter path."""

from mnist_jax.configs.mnist_5k import get_config

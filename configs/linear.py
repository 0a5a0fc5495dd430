"""The config mnist_jax/configs/linear.py, under a shorter path."""

from mnist_jax.configs.linear import get_config

"""The config mnist_jax/configs/momentum.py, under a shorter path."""

from mnist_jax.configs.momentum import get_config

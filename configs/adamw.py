"""The config mnist_jax/configs/adamw.py, under a shorter path."""

from mnist_jax.configs.adamw import get_config

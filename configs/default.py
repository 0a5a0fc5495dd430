"""The config mnist_jax/configs/default.py, under a shorter path."""

from mnist_jax.configs.default import get_config

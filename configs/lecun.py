"""The config mnist_jax/configs/lecun.py, under a shorter path."""

from mnist_jax.configs.lecun import get_config

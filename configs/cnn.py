"""The config mnist_jax/configs/cnn.py, under a shorter path."""

from mnist_jax.configs.cnn import get_config

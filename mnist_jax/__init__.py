"""A JAX/Flax functional trainer for MNIST: TensorFlow Mechanics 101 in today's JAX."""

__version__ = "0.2.0"

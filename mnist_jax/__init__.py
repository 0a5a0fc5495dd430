"""A JAX/Flax functional trainer for MNIST: TensorFlow Mechanics 101, as one would write it today."""

__version__ = "0.1.0"

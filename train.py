"""Trains a network that reads digits, and evaluates it; or goes on with a run that was ended.

    python train.py --config FILE [--workdir DIR] [--config.FIELD=VALUE ...]

Examples:
    python train.py --config configs/default.py
    python train.py --config configs/adamw.py --workdir runs/mine --config.seed=1
    python train.py --config configs/default.py --config.hidden_sizes="(256, 64)"
"""

import contextlib
import gc
from pathlib import Path

from mnist_jax.runtime import signals as preemption

if __name__ == "__main__":
    preemption.exit_at_signals()  # Before what follows, which takes its time to import.

from absl import flags
from ml_collections import ConfigDict, config_flags

from mnist_jax.runtime import command as commands
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file, like those in configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run's folder: created, or gone on with from its newest checkpoint. "
    "By default a new one, runs/<config name>/<YYYYMMDD-HHMMSS>.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "This is one of the processes of a job; see docs/scale.md.",
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port, free there, of the job's process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many there are in the job.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this is, from 0.", lower_bound=0
)


def main() -> None:
    """Calls the loop."""
    config, name = _load_config()
    config_lib.validate(config)  # The loop does so too, but only once jax is imported.
    place = (_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if any(value is not None for value in place) and not _DISTRIBUTED.value:
        raise UserError("distributed: not given, but the place in a job is; add --distributed")
    # What the imports allocate stays: to walk it for garbage over and over would take a
    # fifth of a short run's time.
    gc.disable()
    from mnist_jax import train_loop
    from mnist_jax.parallel import job

    gc.freeze()
    gc.enable()
    with contextlib.ExitStack() as stack:
        if _DISTRIBUTED.value:
            stack.enter_context(job.join_job(*place))
        train_loop.train_and_evaluate(config, _WORKDIR.value, name=name)


def _load_config() -> tuple[ConfigDict, str]:
    """Returns the config, and the name of its file."""
    if not flags.FLAGS["config"].present:
        raise UserError("config: which one? give --config configs/default.py")
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    if not Path(file).is_file():
        raise UserError(f"config: {file}: no such file")
    if not isinstance(_CONFIG.value, ConfigDict):
        raise UserError(f"config: {file}: its get_config() does not return a ConfigDict")
    return _CONFIG.value, Path(file).stem


if __name__ == "__main__":
    commands.run(main, Path(__file__).parent / "configs" / "default.py")

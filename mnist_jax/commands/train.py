"""Trains a network that reads digits and evaluates it; resumes an interrupted run.

    mnist-jax train [--config FILE|NAME] [--workdir DIR] [--quiet] [--config.FIELD=VALUE ...]

Examples:
    mnist-jax train --workdir runs/mine
    mnist-jax train --config adamw --workdir runs/mine --config.seed=1
    mnist-jax train --config ./mine.py --config.hidden_sizes="(256, 64)"
"""

import contextlib
import os
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from mnist_jax.commands.flags import WORKDIR
from mnist_jax.configs import default
from mnist_jax.runtime import command
from mnist_jax.runtime.errors import UserError

flags.declare_key_flag(WORKDIR)
config_flags.DEFINE_config_file(
    "config",
    default.__file__,
    help_string="A config file, or the name of one: adamw, cnn, lecun:300-100, ...",
    lock_config=False,
    accept_new_attributes=True,  # `read_config` reports those that are no fields.
)
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing but warnings and errors.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "This process is one of several of a job; see docs/scale.md."
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of the job's process 0; the port must be free."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the job.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Index of this process in the job, from 0.", lower_bound=0
)
_INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout", 60, "Seconds to wait for the processes of the job.", lower_bound=1
)


def _num_cpu_devices(config: ConfigDict) -> int:
    """Returns how many seeds a CPU trains at a time: one a core is faster than one on all.

    It divides the batches of an evaluation, whose losses then have the same bits.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    most = min(cores, config.num_seeds, 8)  # Each gets a copy of the examples and the state.
    return max(n for n in range(1, most + 1) if config.eval_batch_size % n == 0)


def main() -> None:
    """Runs the loop, as one process of a job if the flags say so."""
    config, name = command.read_config()
    workdir = WORKDIR.value if WORKDIR.present else None
    place = (_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if place != (None, None, None) and not _DISTRIBUTED.value:
        raise UserError("distributed: missing, but flags of a job are set; add --distributed")
    if config.num_seeds > 1 and not _DISTRIBUTED.value and not os.getenv("XLA_FLAGS"):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(_num_cpu_devices(config)))
    from mnist_jax import train_loop
    from mnist_jax.parallel import job

    joined = job.join_job(*place, timeout=_INITIALIZATION_TIMEOUT.value)
    with joined if _DISTRIBUTED.value else contextlib.nullcontext():
        train_loop.train_and_evaluate(config, workdir, name=name, quiet=_QUIET.value)

"""Runs jobs of several processes on this machine, by `--distributed`."""

import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.faults import processes

# Small, with a report every 10 steps, and a batch size that four devices do not divide.
FIELDS: dict[str, Any] = processes.SHORT_RUN | {"num_train_steps": 40}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(
    workdir: Path,
    num_processes: int,
    num_devices: int,
    fields: dict[str, Any] = FIELDS,
    extra: Mapping[int, list[str]] = MappingProxyType({}),
) -> list[subprocess.Popen[str]]:
    """Starts the processes of a job; returns them in the order of their ids.

    Args:
      workdir: The run's folder.
      num_processes: Number of processes in the job.
      num_devices: Number of devices per process.
      fields: Fields of the config.
      extra: Further arguments, by process id.
    """
    command = [*processes.train_command(workdir, fields), *flags(num_processes)]
    return [
        processes.start(
            [*command, f"--process_id={i}", *extra.get(i, [])], env=devices(num_devices)
        )
        for i in range(num_processes)
    ]


def flags(num_processes: int) -> list[str]:
    """Returns the flags of a new job, without the process id."""
    return [
        "--distributed",
        f"--coordinator_address=127.0.0.1:{free_port()}",
        f"--num_processes={num_processes}",
    ]


def devices(number: int) -> dict[str, str]:
    """Returns the environment that gives a process this number of virtual CPU devices."""
    return {"JAX_NUM_CPU_DEVICES": str(number)}


def wait(job: list[subprocess.Popen[str]], timeout: float = 120) -> list[processes.Ended]:
    """Waits for all processes; a job that hangs is killed, and an error."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in job]
    finally:
        for process in job:
            process.kill()
    return [
        processes.Ended(process.returncode, stdout, without_waiting(stderr))
        for process, (stdout, stderr) in zip(job, outputs, strict=True)
    ]


def without_waiting(stderr: str) -> str:
    """Returns stderr without the lines of processes that wait for the others of their job.

    How many there are depends on how fast the others start.
    """
    return re.sub(r"^Waiting up to .* \.\.\.\n", "", stderr, flags=re.MULTILINE)


def run(
    workdir: Path, num_processes: int, num_devices: int, fields: dict[str, Any] = FIELDS
) -> list[processes.Ended]:
    """Runs a job, which must succeed."""
    ended = wait(start(workdir, num_processes, num_devices, fields))
    assert [end.returncode for end in ended] == [0] * num_processes, ended
    return ended


def run_alone(workdir: Path, num_devices: int, fields: dict[str, Any] = FIELDS) -> None:
    """Runs the command without `--distributed` on a number of devices."""
    command = processes.train_command(workdir, fields)
    ended = processes.run(command, env=devices(num_devices))
    assert ended.returncode == 0, ended


def assert_same_runs(*workdirs: Path) -> None:
    """They have the same bits; TensorBoard's description is that of a run's beginning."""
    config = processes.short_config()
    one, other = (processes.remains(x, config).without_description() for x in workdirs)
    assert one == other

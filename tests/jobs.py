"""Jobs of several OS processes on this machine, as `--distributed` makes them one."""

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.faults import processes

# Small, with something due at every tenth step, and batches of a size that four devices
# don't divide.
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
    """Starts the processes, each with so many devices, in the order of their ids.

    Args:
      workdir: Of the run.
      num_processes: In the job.
      num_devices: Of each process.
      fields: Of the config.
      extra: More arguments, for some of the processes.
    """
    command = [
        *processes.train_command(workdir, fields),
        "--distributed",
        f"--coordinator_address=127.0.0.1:{free_port()}",
        f"--num_processes={num_processes}",
    ]
    return [
        processes.start(
            [*command, f"--process_id={i}", *extra.get(i, [])], env=devices(num_devices)
        )
        for i in range(num_processes)
    ]


def devices(number: int) -> dict[str, str]:
    """The environment that gives a process so many virtual CPU devices."""
    return {"JAX_NUM_CPU_DEVICES": str(number)}


def ends(job: list[subprocess.Popen[str]], timeout: float = 120) -> list[processes.Ended]:
    """Waits for all; a job that hangs is killed, and an error."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in job]
    finally:
        for process in job:
            process.kill()
    return [
        processes.Ended(process.returncode, *output)
        for process, output in zip(job, outputs, strict=True)
    ]


def run(
    workdir: Path, num_processes: int, num_devices: int, fields: dict[str, Any] = FIELDS
) -> list[processes.Ended]:
    """Runs a job that is to succeed."""
    ended = ends(start(workdir, num_processes, num_devices, fields))
    assert [end.returncode for end in ended] == [0] * num_processes, ended
    return ended


def run_alone(workdir: Path, num_devices: int, fields: dict[str, Any] = FIELDS) -> None:
    """Runs the plain command, which is no job, on so many devices."""
    command = processes.train_command(workdir, fields)
    ended = processes.run(command, env=devices(num_devices))
    assert ended.returncode == 0, ended

"""The processes of one job: each runs the same program on the same data.

The processes are JAX's own (`jax.distributed`). The first one writes files and prints, and
decides what could differ between them. With one process every function here returns at once.
"""

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import (
    CommandError,
    TrainingDivergedError,
    UserError,
    first_line,
)
from mnist_jax.runtime.signals import PreemptedError

_HEARTBEAT_TIMEOUT = 30  # Seconds; a lost process is noticed after this and a poll or two.
_T = TypeVar("_T")


def is_first_process() -> bool:
    """Returns whether this process writes files and prints, for all."""
    return jax.process_index() == 0


class _SharedError(CommandError):
    """An error that all processes raise at the same point."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def broadcast_from_first(compute: Callable[[], _T]) -> _T:
    """Calls a function in the first process and returns its result in all of them.

    Args:
      compute: Returns a JSON value.

    Raises:
      CommandError: `compute` raised it; raised in all processes.
    """
    if jax.process_count() == 1:
        return compute()
    message: dict[str, Any] = {}
    if is_first_process():
        try:
            message = {"result": compute()}
        except CommandError as error:
            message = {"error": str(error), "exit_code": error.exit_code}
    message = json.loads(_broadcast_bytes(json.dumps(message).encode()))
    if "error" in message:
        raise _SharedError(message["error"], message["exit_code"])
    return message["result"]


def _broadcast_bytes(content: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.frombuffer(content[:size].ljust(size), np.uint8)
    return multihost_utils.broadcast_one_to_all(padded).tobytes()


def max_over_processes(number: int) -> int:
    """Returns the largest of all processes' numbers (int32); waits for all of them."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def assert_same_on_all_processes(name: str, *values: Any) -> None:
    """Raises an error in every process unless all of them passed the same values.

    Args:
      name: What is compared, for the error message.
      *values: Arrays, or objects with a complete `repr`.
    """
    if jax.process_count() == 1:
        return
    checksum = 0
    for value in values:
        content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        checksum = zlib.crc32(content, checksum)
    checksums = multihost_utils.process_allgather(np.uint32(checksum))
    others = np.flatnonzero(checksums != checksums[0])
    if others.size:
        raise _SharedError(
            f"{name}: process {others[0]} and process 0 have different ones; give every "
            "process the same",
            UserError.exit_code,
        )


@contextlib.contextmanager
def join_job(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Makes this process one of a job; at the end it waits for the others.

    Args:
      coordinator_address: `host:port` of process 0. Where an argument is None, JAX asks
        Slurm, Open MPI, Kubernetes or the TPU pod for it.
      num_processes: Number of processes in the job.
      process_id: This process's number, from 0.

    Raises:
      UserError: An argument is missing and nothing provides it, or the job can't form.
    """
    # Without JAX's own handler of SIGTERM: the loop handles signals, see `signals`.
    jax.config.update("jax_enable_preemption_service", False)
    arguments = (coordinator_address, num_processes, process_id)
    try:
        jax.distributed.initialize(
            *arguments,
            # With all arguments given, a Slurm allocation around the command is ignored.
            cluster_detection_method=None if None in arguments else "deactivate",
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
    except Exception as error:  # Of any type: each launcher's detection raises its own.
        raise UserError(
            f"distributed: {first_line(error)}; start the command by srun, mpirun or as a "
            "Kubernetes job, or give --coordinator_address, --num_processes and --process_id"
        ) from error
    try:
        with exit_if_process_lost():
            yield
    except (_SharedError, PreemptedError, TrainingDivergedError) as error:
        # Every process raises these at the same point: the shutdown waits for all of them.
        jax.distributed.shutdown()
        if not is_first_process():
            sys.exit(error.exit_code)  # The first process prints the message.
        raise
    jax.distributed.shutdown()


@contextlib.contextmanager
def exit_if_process_lost() -> Iterator[None]:
    """Ends this process with one line where a collective fails: another process is gone.

    At once, without closing anything: whatever there is to close would wait for the lost
    process. Where nothing is being exchanged, JAX's runtime ends this process after
    `_HEARTBEAT_TIMEOUT`.
    """
    try:
        yield
    # JAX raises some errors of the transport (gloo, NCCL) as ValueError.
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1:
            raise
        terminal.print_error(
            f"A process of this job is gone or failed ({first_line(error)}); start the whole "
            "job again with the same command: it resumes from the newest checkpoint"
        )
        os._exit(CommandError.exit_code)

"""The processes of one job (`jax.distributed`): each runs the same program on the same data.

The first process writes files and prints, and decides what could differ between them. With
one process every function here returns at once.
"""

import atexit
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
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
    refusing,
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
    """Calls a function in the first process; returns its result, a JSON value, in all.

    Raises:
      CommandError: The function raised it; raised in all processes.
    """
    if jax.process_count() == 1:
        return compute()
    message: dict[str, Any] = {}
    if is_first_process():
        try:
            message = {"result": compute()}
        except CommandError as error:
            message = {"error": str(error), "exit_code": error.exit_code}
    content = json.dumps(message).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.frombuffer(content[:size].ljust(size), np.uint8)
    message = json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
    if "error" in message:
        raise _SharedError(message["error"], message["exit_code"])
    return message["result"]


def max_over_processes(number: int) -> int:
    """Returns the largest of all processes' numbers (int32); waits for all of them."""
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def assert_same_on_all_processes(name: str, value: object) -> None:
    """Raises an error in every process unless the values have the same `repr` in all."""
    is_same = repr(value) == broadcast_from_first(lambda: repr(value))
    if other := max_over_processes(0 if is_same else jax.process_index()):
        problem = f"process {other} and process 0 have different ones"
        message = f"{name}: {problem}; give every process the same"
        raise _SharedError(message, UserError.exit_code)


@contextlib.contextmanager
def join_job(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout: int,
) -> Iterator[None]:
    """Makes this process one of a job; at the end it waits for the others.

    The first three arguments are those of `jax.distributed.initialize`. Where one is None, JAX
    asks Slurm, Open MPI, Kubernetes or the TPU pod for it. A job that has not formed after
    `timeout` seconds ends the process with one line.

    Raises:
      UserError: An argument is wrong, or is missing and nothing provides it.
    """
    # Without JAX's own handler of SIGTERM: `SignalWatch` handles it.
    jax.config.update("jax_enable_preemption_service", False)
    arguments = (coordinator_address, num_processes, process_id)
    name = _check(*arguments)
    try:
        # In a thread: Python handles no signal while the main thread waits in JAX.
        formed = futures.ThreadPoolExecutor(1).submit(
            jax.distributed.initialize,
            *arguments,
            # With all arguments given, a Slurm allocation around the command is ignored.
            cluster_detection_method=None if None in arguments else "deactivate",
            initialization_timeout=2 * timeout,  # At its end JAX aborts the process.
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
        if not futures.wait([formed], timeout=1).done:
            print(f"Waiting up to {timeout} s for {name} ...", file=sys.stderr, flush=True)
        formed.result(timeout - 1)
    except TimeoutError:
        terminal.print_error(
            f"distributed: {name} has not formed in {timeout} s; start all of its processes, "
            "where they can reach the coordinator"
        )
        os._exit(CommandError.exit_code)  # Without waiting for the thread.
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
        if is_first_process():
            raise  # The others exit without the message.
        sys.exit(error.exit_code)
    except Exception as error:
        # Of this process alone: at its exit JAX would wait for the others, and they for it.
        atexit.register(os._exit, getattr(error, "exit_code", CommandError.exit_code))
        raise
    jax.distributed.shutdown()


def _check(address: str | None, num_processes: int | None, process_id: int | None) -> str:
    """Checks this process's place in a job; returns what the job is called."""
    if address is None or num_processes is None or process_id is None:
        return "this job"
    port = address.rpartition(":")[2]
    if not re.fullmatch(r".+:[0-9]{1,5}", address) or not 0 < int(port) < 2**16:
        raise UserError(f"coordinator_address: {address!r} is not HOST:PORT, like node1:8476")
    if process_id >= num_processes:
        raise UserError(f"process_id: {process_id} is not below {num_processes} processes")
    if process_id == 0:  # JAX would share the port with another job.
        with refusing(f"coordinator_address: {address}", "give each job its own port"):
            socket.create_server(("", int(port))).close()
    return f"the job at {address} (process {process_id} of {num_processes}, counted from 0)"


@contextlib.contextmanager
def exit_if_process_lost() -> Iterator[None]:
    """Ends this process with one line if a collective fails: another process is gone.

    Without closing anything, because that would wait for the lost process. If nothing is
    exchanged, JAX's runtime ends this process after `_HEARTBEAT_TIMEOUT`.
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

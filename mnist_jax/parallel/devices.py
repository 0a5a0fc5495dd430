"""Devices and processes: the batch is spread over all devices; all processes act as one.

With one device and one process every function here is what its name says of that one, and
costs nothing. With more of them the arrays are global ones on a mesh of one axis, `data`, and
XLA puts an all-reduce of the gradients into the step; nothing else communicates. The processes
are JAX's own (`jax.distributed`): each runs the same program on the same data, and computes
its devices' share of every batch.
"""

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mnist_jax.runtime.errors import CommandError, TrainingDivergedError, UserError, first_line
from mnist_jax.runtime.signals import PreemptedError

_AXIS = "data"
_HEARTBEAT_TIMEOUT = 30  # Seconds; a lost process is noticed after this and a poll or two.
_T = TypeVar("_T")


@contextlib.contextmanager
def use_all() -> Iterator[None]:
    """Spreads over all devices of all processes what `put` and `shard` are called on."""
    mesh = jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield


def put(tree: Any) -> Any:
    """Returns the host's arrays on the devices, whole on each.

    Args:
      tree: Of arrays, the same in every process.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(tree)
    sharding = NamedSharding(mesh, PartitionSpec())

    def put_array(array: Any) -> jax.Array:
        # Not `device_put`: across processes it would compare every byte with the others'.
        return jax.make_array_from_callback(array.shape, sharding, lambda _: array)

    return jax.tree.map(put_array, tree)


def shard(tree: _T) -> _T:
    """Inside `jit`: has the rows of each array computed on the devices in turn.

    The number of rows need not divide by that of the devices: what reads the array, also a
    mean over its rows, sees the true ones.
    """
    return _constrain(tree, PartitionSpec(_AXIS))


def replicate(tree: _T) -> _T:
    """Inside `jit`: has each array whole on every device, for every process to read."""
    return _constrain(tree, PartitionSpec())


def _constrain(tree: _T, spec: PartitionSpec) -> _T:
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, spec)


def is_first() -> bool:
    """Returns whether this is the process that writes, and prints, for all."""
    return jax.process_index() == 0


class _AgreedError(CommandError):
    """Raised in all processes at once."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


# What every process raises at the same point; other errors are those of one process.
_EVERYONES = (_AgreedError, PreemptedError, TrainingDivergedError)


def agree(decide: Callable[[], _T]) -> _T:
    """Returns what the first process decides, in all of them.

    Args:
      decide: Called in the first process alone; returns what JSON can hold. A CommandError
        of it is raised in all.
    """
    if jax.process_count() == 1:
        return decide()
    message: dict[str, Any] = {}
    if is_first():
        try:
            message = {"decision": decide()}
        except CommandError as error:
            message = {"error": str(error), "exit_code": error.exit_code}
    message = json.loads(_broadcast(json.dumps(message).encode()))
    if "error" in message:
        raise _AgreedError(message["error"], message["exit_code"])
    return message["decision"]


def _broadcast(content: bytes) -> bytes:
    """Returns the first process's bytes, in all."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.frombuffer(content[:size].ljust(size), np.uint8)
    return multihost_utils.broadcast_one_to_all(padded).tobytes()


def highest(number: int) -> int:
    """Returns the highest of all processes' numbers, int32; waits for what is under way."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_alike(what: str, *parts: Any) -> None:
    """Raises an error in every process unless all of them were given the same.

    Args:
      what: It is, for the error.
      *parts: Arrays, or what has a `repr` that tells all.
    """
    if jax.process_count() == 1:
        return
    checksum = 0
    for part in parts:
        content = part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        checksum = zlib.crc32(content, checksum)
    checksums = multihost_utils.process_allgather(np.uint32(checksum))
    others = np.flatnonzero(checksums != checksums[0])
    if others.size:
        raise _AgreedError(
            f"{what}: that of process {others[0]} is not that of process 0; give every process "
            "the same",
            UserError.exit_code,
        )


@contextlib.contextmanager
def joined(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Makes this process one of a job's, until all of them have come to the end.

    Args:
      coordinator_address: `host:port` of the first process; None, as the others: what Slurm,
        Open MPI, Kubernetes or a TPU pod tells.
      num_processes: In the job.
      process_id: This one's, from 0.

    Raises:
      UserError: Nothing tells what is not given, or it does not fit.
    """
    # Signals are the loop's to hear, and all processes' to agree on: see `highest`.
    jax.config.update("jax_enable_preemption_service", False)
    given = (coordinator_address, num_processes, process_id)
    try:
        jax.distributed.initialize(
            *given,
            # Where all is given, a Slurm allocation around it must not be asked as well.
            cluster_detection_method=None if None in given else "deactivate",
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
    except Exception as error:  # Of any type, as the ways to be told are many.
        raise UserError(
            f"distributed: {first_line(error)}; start the command by srun, mpirun or as a "
            "Kubernetes job, or give --coordinator_address, --num_processes and --process_id"
        ) from error
    try:
        with ending_with_a_lost_process():
            yield
    except _EVERYONES as error:
        jax.distributed.shutdown()  # Waits for the others, who come here, too.
        if not is_first():
            sys.exit(error.exit_code)  # The first tells it.
        raise
    jax.distributed.shutdown()


@contextlib.contextmanager
def ending_with_a_lost_process() -> Iterator[None]:
    """Ends this process, with one line, where it finds that another is gone.

    At once: whatever there is to close would wait for the one that is gone. Where nothing
    is being exchanged, JAX's runtime ends the process, after `_HEARTBEAT_TIMEOUT`.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1 and any(name in str(error) for name in _TRANSPORTS):
            _end(error)
        raise


# How the errors of what connects processes name it. Their types are JAX's own and Python's.
_TRANSPORTS = ("Gloo", "NCCL", "oordination service", "CoordinationService")


def _end(error: Exception) -> NoReturn:
    print(
        f"Another process of this job is gone ({first_line(error)}); start the whole job again "
        "with the same command: it goes on from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(CommandError.exit_code)

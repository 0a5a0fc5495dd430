"""One mesh of all devices: batches are sharded over it, everything else is replicated.

Outside of `use_all_devices` every function here is the one-device case and costs nothing.
Inside, arrays are global arrays on a mesh with one axis, `data`, and XLA adds one all-reduce
of the gradients to the step; the devices exchange nothing else.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_AXIS = "data"
_T = TypeVar("_T")


@contextlib.contextmanager
def use_all_devices() -> Iterator[None]:
    """Makes the functions below use all devices of all processes."""
    mesh = jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield


def put_replicated(tree: Any) -> Any:
    """Copies a tree of host arrays, the same in every process, to every device."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(tree)
    sharding = NamedSharding(mesh, PartitionSpec())
    # Not `device_put`: with several processes it would compare every byte between them.
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, sharding, lambda _: array), tree
    )


def shard_batch(tree: _T) -> _T:
    """Inside `jit`: splits the first dimension of each array over the devices.

    The number of rows need not be a multiple of the number of devices. What reads the array,
    such as a mean over its rows, sees only the real rows.
    """
    return _constrain(tree, PartitionSpec(_AXIS))


def replicate(tree: _T) -> _T:
    """Inside `jit`: copies each array to every device, so that every process can read it."""
    return _constrain(tree, PartitionSpec())


def _constrain(tree: _T, spec: PartitionSpec) -> _T:
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, spec)

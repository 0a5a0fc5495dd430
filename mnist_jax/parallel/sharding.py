"""One mesh of all devices: batches are sharded over it, everything else is replicated.

Outside of `use_devices` every function here is the one-device case and costs nothing.
Inside, arrays are global arrays on a mesh with the axes `members`, of one device unless there
are several seeds, and `data`. XLA adds one all-reduce of the gradients over `data` to the step;
the devices exchange nothing else, until at the end of a device call all get the new state.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_MEMBERS, _DATA = "members", "data"
_T = TypeVar("_T")


@contextlib.contextmanager
def use_devices(
    num_members: int = 1, devices: Sequence[jax.Device] | None = None
) -> Iterator[None]:
    """Makes the functions below use some devices, by default all of all processes.

    Several members are divided over the devices: over all, or, if there are fewer members than
    devices, over as many groups of devices, of one size, as possible.
    """
    num_devices = len(devices or jax.devices())
    groups = max(n for n in range(1, num_members + 1) if num_devices % n == 0)
    shape, axis_types = (groups, num_devices // groups), (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh(shape, (_MEMBERS, _DATA), axis_types=axis_types, devices=devices)
    with jax.set_mesh(mesh):
        yield


def put_replicated(tree: Any) -> Any:
    """Copies a tree of host arrays, the same in every process, to every device."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(tree)
    # Not `device_put`: with several processes it would compare every byte between them.
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec()), tree)


def put_rows(array: Any, indices: np.ndarray) -> jax.Array:
    """Copies rows of an array in the host's memory, or in a file, to the devices that use them.

    Args:
      array: Returns for indices, `int[n]`, a new array of these rows.
      indices: `int32[..., batch]`, or of several members `int32[members, steps, batch]`.

    Returns:
      `[*indices.shape, ...]`. The batch is divided over the devices if their number divides it,
      and so are the members; each process reads the rows of its own devices.
    """
    mesh, shape = jax.sharding.get_mesh(), (*indices.shape, *array.shape[1:])

    def read(part: Any = ()) -> np.ndarray:
        rows = indices[part[: indices.ndim]]
        return array[rows.ravel()].reshape(*rows.shape, *array.shape[1:])

    if mesh.empty:
        return jax.device_put(read())
    axes = [(_MEMBERS,), (), (_DATA,)] if indices.ndim == 3 else [(), (_MEMBERS, _DATA)]
    spec = [
        axis if size % math.prod(mesh.shape[name] for name in axis) == 0 else None
        for axis, size in zip(axes[-indices.ndim :], indices.shape, strict=True)
    ]
    return jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(*spec)), read)


def shard_batch(tree: _T) -> _T:
    """Inside `jit`: splits the first dimension of each array over the devices.

    The number of rows need not be a multiple of the number of devices. What reads the array,
    such as a mean over its rows, sees only the real rows.
    """
    return _constrain(tree, PartitionSpec(jax.sharding.get_abstract_mesh().auto_axes))


def replicate(tree: _T) -> _T:
    """Inside `jit`: copies each array to every device, so that every process can read it."""
    return _constrain(tree, PartitionSpec())


def divide_members(function: Callable[[Any, Any], Any], shared: Any, members: Any) -> Any:
    """Inside `jit`: calls `function(shared, members)` for each group's share of the members.

    The leading dimension of each array of `members` and of the result is that of the members.
    If they can't be divided evenly, some groups compute the first members again.
    """
    mesh = jax.sharding.get_abstract_mesh()
    groups = mesh.shape.get(_MEMBERS, 1)
    if groups == 1:
        return function(shared, members)
    num_members = len(jax.tree.leaves(members)[0])
    if missing := -num_members % groups:
        rows = jnp.arange(num_members + missing) % num_members
        members = jax.tree.map(lambda leaf: leaf[rows], members)
    call = jax.shard_map(
        function,
        in_specs=(PartitionSpec(), PartitionSpec(_MEMBERS)),
        out_specs=PartitionSpec(_MEMBERS),
        axis_names={_MEMBERS},
        check_vma=False,
    )
    return jax.tree.map(lambda leaf: leaf[:num_members], call(shared, members))


def _constrain(tree: _T, spec: PartitionSpec) -> _T:
    # The axes that XLA divides: within `divide_members` only `data`; without a mesh none.
    if not jax.sharding.get_abstract_mesh().auto_axes:
        return tree
    return jax.lax.with_sharding_constraint(tree, spec)

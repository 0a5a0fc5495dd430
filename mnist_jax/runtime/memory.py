"""How much memory a run may use."""

import contextlib
import os
import resource
from pathlib import Path
from typing import Any

import jax

_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")  # As a container sees its own (version 2).


def device_limit() -> int:
    """Returns the bytes of each device of this process; of a CPU's, its share of the host's."""
    devices = jax.local_devices()
    if statistics := devices[0].memory_stats():  # None on CPU.
        return statistics["bytes_limit"]
    # The host's memory, `ulimit -v` and the control group.
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits += [soft] if soft != resource.RLIM_INFINITY else []
    with contextlib.suppress(OSError, ValueError):  # There is none, or it is "max".
        limits.append(int(_CONTROL_GROUP.read_text()))
    return min(limits) // len(devices)


def num_bytes(tree: Any) -> int:
    """Returns the size of the arrays of a tree, which may be `jax.ShapeDtypeStruct`s."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

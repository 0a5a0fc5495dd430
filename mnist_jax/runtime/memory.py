"""How much memory a process may use: what the machine has, and what it is allowed."""

import os
import resource
from pathlib import Path

import jax

_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def device_limit() -> int:
    """Returns the bytes of each device of this process; of a CPU's, its share of the host's."""
    devices = jax.local_devices()
    statistics = devices[0].memory_stats() or {}  # None on CPU.
    return statistics.get("bytes_limit") or host_limit() // len(devices)


def host_limit() -> int:
    """Returns the bytes of the host, or what `ulimit -v` or the control group (v2) allows."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    try:
        group = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    except OSError:  # Not on Linux.
        group = ""
    folder = _CONTROL_GROUPS / group
    for path in (folder, *folder.parents):
        try:
            limits.append(int((path / "memory.max").read_text()))
        except (OSError, ValueError):  # There is none, or it is "max".
            continue
    return min(limits)

"""What a run is made with: versions, devices, the commit of the code."""

import contextlib
import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax

import mnist_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@functools.cache
def describe() -> dict[str, str]:
    """Returns the versions, the kind and number of devices, and the commit if there is one."""
    environment = {"mnist_jax": mnist_jax.__version__, "python": platform.python_version()}
    environment |= {package: metadata.version(package) for package in _PACKAGES}
    environment["devices"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    checkout = Path(mnist_jax.__file__).parent.parent
    if (checkout / ".git").exists():
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
        with contextlib.suppress(OSError):  # git is not installed.
            # Without tags: a tag's name would stand in the commit's place.
            ended = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
            environment["commit"] = ended.stdout.strip() or "unknown"
    return environment

"""What XLA has compiled, kept for the user's next command: a third of a short run's time.

JAX's own persistent cache trusts its folder and writes into it in place: a killed process
leaves half an entry, which warns at every start from then on, and a damaged one may compute
anything. So each command gets a folder of its own, with the entries of the user's store that
are what they were, and adds what it has compiled: by a rename, under a name with its SHA-256.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MAX_ENTRIES = 100  # Of 10 to 100 kB each; a run has half a dozen.


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Lets JAX find what earlier commands compiled; to be entered before it is imported.

    Does nothing where JAX_COMPILATION_CACHE_DIR names another cache, or
    JAX_ENABLE_COMPILATION_CACHE is false, nor where the user's folder can't be trusted or
    there is no room. The store is added to only where no exception ends the context.
    """
    is_wanted = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() not in ("0", "false")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not is_wanted:
        yield
        return
    try:
        store = _store()
        temporary = tempfile.TemporaryDirectory(
            prefix="mnist_jax-xla-", ignore_cleanup_errors=True
        )
    except (OSError, RuntimeError):  # No room for it, or the user has no home.
        yield
        return
    with temporary as name:
        folder = Path(name)
        with contextlib.suppress(OSError):
            _load(store, folder)
        known = set(folder.iterdir())
        os.environ["JAX_COMPILATION_CACHE_DIR"] = name
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        # Caches of XLA's own would be told the folder, and its name become part of every key.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
        yield
        with contextlib.suppress(OSError):
            _add(store, [path for path in folder.iterdir() if path not in known])


def _store() -> Path:
    """Returns the folder for this user, this release of XLA and this kind of processor."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    try:
        # What was compiled for one processor may not run on another that shares the folder.
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    kind = hashlib.sha256(f"{platform.machine()} {processor}".encode()).hexdigest()[:12]
    return Path(cache, "mnist_jax", "xla", f"{importlib.metadata.version('jaxlib')}-{kind}")


def _load(store: Path, folder: Path) -> None:
    """Copies the entries that are what was written; the others are deleted."""
    if not _is_ours(store):
        return
    for path in store.iterdir():
        name, _, digest = path.name.rpartition(".")
        content = path.read_bytes()
        if name and hashlib.sha256(content).hexdigest() == digest:
            aside = folder / ".aside"  # Half of it, on a full disk, would be no entry.
            aside.write_bytes(content)
            aside.rename(folder / name)
            os.utime(path)  # It is used.
        else:
            path.unlink()


def _add(store: Path, entries: list[Path]) -> None:
    if not entries:
        return
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(store):
        return
    for entry in entries:
        content = entry.read_bytes()
        with tempfile.NamedTemporaryFile(dir=store, delete=False) as file:
            file.write(content)
        Path(file.name).rename(store / f"{entry.name}.{hashlib.sha256(content).hexdigest()}")
    by_use = sorted(store.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in by_use[:-_MAX_ENTRIES]:
        path.unlink()


def _is_ours(store: Path) -> bool:
    """Returns whether nobody but the user can write there: what is there will be executed."""
    try:
        status = store.lstat()
    except FileNotFoundError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & others
    )

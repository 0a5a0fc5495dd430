"""A run's folder: its name, its creation, and that one process at a time writes to it."""

import contextlib
import fcntl
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from mnist_jax.runtime.errors import UserError, writing_to


def locate(workdir: str | Path) -> Path:
    """Returns the folder's absolute path; it need not exist yet.

    Raises:
      UserError: It can't be a run's folder, or holds a link, which could lead out of it.
    """
    if not str(workdir):
        raise UserError("workdir: empty; name a folder")
    try:
        path = Path(workdir).expanduser().absolute()
        entries = [*path.iterdir()] if path.exists() else []
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"workdir: {workdir}: {reason}; choose another") from error
    for entry in entries:
        if entry.is_symlink():
            raise UserError(
                f"workdir: {entry} is a symbolic link; put what it points to in its place, "
                "or choose another"
            )
    return path


@contextlib.contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Creates the folder where it is missing, and holds its lock meanwhile.

    The lock is the kernel's (`flock`): it ends with the process, however that ends, so
    there are no stale ones. The file says who holds it.

    Raises:
      UserError: Another process holds it, or the folder can't be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((workdir / ".lock").open("a+"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"workdir: {workdir} is in use by {lock.read().strip() or 'another process'}; "
                "wait for its end, or choose another"
            ) from error
        except OSError as error:
            raise UserError(f"workdir: {workdir}: {error.strerror}; choose another") from error
        with writing_to(lock.name):
            lock.truncate(0)
            holder = f"process {os.getpid()} on {socket.gethostname()}\n"
            os.write(lock.fileno(), holder.encode())
        yield


def create_new(name: str) -> Path:
    """Creates and returns `runs/<name>/<YYYYMMDD-HHMMSS>`, a folder that no other run has.

    Raises:
      UserError: It can't be created.
    """
    while True:
        workdir = Path("runs") / name / time.strftime("%Y%m%d-%H%M%S")
        try:
            workdir.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.1)  # Another run began within this second: take the next one.
        except OSError as error:
            raise UserError(f"workdir: {workdir}: {error.strerror}; choose another") from error
        else:
            return workdir.absolute()


def move_into(folder: Path, parent: Path) -> Path:
    """Moves a folder to `<parent>/<its name>-<number>`, a new name, and returns that."""
    parent.mkdir(exist_ok=True)
    destinations = (parent / f"{folder.name}-{number}" for number in itertools.count())
    return folder.rename(next(path for path in destinations if not path.exists()))

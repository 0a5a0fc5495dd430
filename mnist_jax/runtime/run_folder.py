"""The folders that a user names; a run's folder: its path, creation, lock and id."""

import contextlib
import fcntl
import functools
import glob
import itertools
import os
import socket
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mnist_jax.runtime.errors import UserError, refusing, writing_to
from mnist_jax.runtime.files import open_regular, replacing

# Orbax and TensorStore expand these in the paths of a checkpoint, and can't restore it.
_UNSAFE_CHARACTERS = frozenset("*?[\\")
_MAX_NAME = 255  # Bytes; `mkdir` would create the folders above before it refuses the name.

_choosing = functools.partial(
    refusing, advice="choose another", expected=(OSError, RuntimeError, ValueError)
)


def resolve(name: str, folder: str | Path) -> Path:
    """Returns the absolute path of a folder, which need not exist.

    Raises:
      UserError: It can't be used; the message begins with `name`, the flag, field or variable.
    """
    with _choosing(f"{name}: {folder}"):
        if "://" in str(folder):
            raise ValueError("is a URL; mount the bucket and name a folder of it")
        path = Path(folder).expanduser().absolute()
        # `encode` raises ValueError if the path is not UTF-8.
        if any(len(part.encode()) > _MAX_NAME for part in path.parts):
            raise ValueError("File name too long")
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(path.stat().st_mode):
                raise ValueError("Not a directory")
    return path


SUB_RUNS = ["train", "validation", "test"]  # TensorBoard's.
# What is written below the folder. A link could lead out of it, and a pipe would block.
_FILES = [".lock", "run_id", "metrics.jsonl", "results.json", "events.out.tfevents.*"]
_FILES += [f"{sub_run}/events.out.tfevents.*" for sub_run in SUB_RUNS]
_FOLDERS = ["checkpoints", "checkpoints/deleted", "damaged", "figures", *SUB_RUNS]
_FOLDERS += ["plugins", "plugins/profile", "plugins/profile/*"]


def locate(workdir: str | Path) -> Path:
    """Returns the absolute path of a run's folder, which need not exist.

    Raises:
      UserError: It can't be a run's folder, or something in it is not of the kind it should be.
    """
    if not str(workdir):
        raise UserError("workdir: missing; give --workdir FOLDER")
    path = resolve("workdir", workdir)
    with _choosing(f"workdir: {workdir}"):
        for character in _UNSAFE_CHARACTERS.intersection(str(path)):
            raise ValueError(f"a checkpoint's path can't contain {character!r}")
        if path.exists():
            next(path.iterdir(), None)  # Raises OSError if it is not a readable folder.
        for pattern in _FILES + _FOLDERS:
            is_right = stat.S_ISREG if pattern in _FILES else stat.S_ISDIR
            for name in glob.iglob(pattern, root_dir=path):  # noqa: PTH207, finds broken links
                with contextlib.suppress(FileNotFoundError):  # A run may just have removed it.
                    if not is_right((path / name).lstat().st_mode):
                        raise ValueError(f"{path / name} is a link or of the wrong kind")
    return path


@contextlib.contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Creates the folder if it is missing, and holds its lock inside the context.

    The kernel releases the lock when the process ends; the file names that process.

    Raises:
      UserError: Another process holds the lock, or the folder can't be written.
    """
    with contextlib.ExitStack() as stack:
        with _choosing(f"workdir: {workdir}"):
            workdir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open_regular(workdir / ".lock", "ab+", buffering=0))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                owner = lock.read().decode().strip() or "another process"
                raise ValueError(f"is in use by {owner}") from error
        with writing_to(lock.name):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def is_in_use(workdir: Path) -> bool:
    """Returns whether a process holds the folder's lock."""
    with contextlib.suppress(FileNotFoundError), open_regular(workdir / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_id(workdir: Path) -> str:
    """Returns the id of the run in the folder, or '' if it has none yet."""
    path = workdir / "run_id"
    return path.read_text(errors="replace").strip() if path.is_file() else ""


def write_id(workdir: Path, run_id: str | None) -> str:
    """Writes the run's id, by default a new random one, and returns it."""
    run_id = run_id or uuid.uuid4().hex
    with replacing(workdir / "run_id") as file:
        file.write(f"{run_id}\n".encode())
    return run_id


def create_token(workdir: Path) -> IO[bytes]:
    """Creates a temporary file in the folder, or its nearest parent, or raises UserError."""
    with _choosing(f"workdir: {workdir}"):
        folder = next(path for path in (workdir, *workdir.parents) if path.exists())
        return tempfile.NamedTemporaryFile(prefix=".mnist_jax_", dir=folder)


def create_new(parent: Path) -> Path:
    """Creates `<parent>/<YYYYMMDD-HHMMSS>`, or raises UserError; returns its absolute path."""
    while True:
        workdir = locate(parent / time.strftime("%Y%m%d-%H%M%S"))
        with _choosing(f"workdir: {workdir}"), contextlib.suppress(FileExistsError):
            workdir.mkdir(parents=True)
            return workdir
        time.sleep(0.1)  # Another run started within this second.


def move_into(folder: Path, parent: Path) -> Path:
    """Moves a folder to `<parent>/<its name>-<number>`, a new name, and returns that."""
    parent.mkdir(exist_ok=True)
    destinations = (parent / f"{folder.name}-{number}" for number in itertools.count())
    return folder.rename(next(path for path in destinations if not os.path.lexists(path)))

"""Opens files without waiting; writes them whole or not at all, and never through a link."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def open_regular(path: str | Path, mode: str = "rb", **options: Any) -> Any:
    """Opens a file as `open` does; an OSError if it is no regular one or, to write, a link."""

    def opener(path: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            flags |= os.O_NOFOLLOW
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)  # Would wait for a pipe.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Not a regular file", path)
        return descriptor

    return open(path, mode, opener=opener, **options)


def digest_files(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of the files below a folder, but not of links, by path."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yields a new file, which replaces `path` at the end of the context unless that raises."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "A link, or not a regular file", str(path))
    for other in path.parent.glob(".aside-*"):
        with contextlib.suppress(OSError), open_regular(other, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Fails unless it was killed.
            other.unlink()
    # An unpredictable name, created with O_EXCL: no link can be there already.
    aside = path.with_name(f".aside-{secrets.token_hex(8)}")
    try:
        with aside.open("xb") as file:
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time into the context, by a lock of the file `path`."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # Some network file systems have no locks.
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(open_regular(path, "a")), fcntl.LOCK_EX)
        yield

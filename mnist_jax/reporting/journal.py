"""`metrics.jsonl`: one JSON line per report, with every number of a run."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_jax.runtime.errors import UserError, writing_to
from mnist_jax.runtime.files import open_regular


class Journal:
    """The journal of a run; `lines` are all so far: `step`, `dataset`, and numbers by tag."""

    def __init__(self, workdir: Path, first_step: int, sha256: str | None = None):
        """Opens the journal, and removes the lines after `first_step`; at 0 all lines.

        `sha256` is what `flush` returned at that step, if it is known.

        Raises:
          UserError: The file is not what the run wrote; nothing was removed.
          WriteError: The file can't be written; also from every other method.
        """
        self._path = workdir / "metrics.jsonl"
        self.lines, content = _read(self._path, first_step or -1)
        self._digest = hashlib.sha256(content)
        if sha256 not in (None, self._digest.hexdigest()):
            raise _error(self._path, f"lines up to step {first_step} are missing or changed")
        with writing_to(self._path):
            self._file = open_regular(self._path, "a")
            self._file.truncate(len(content))

    def write(self, step: int, dataset: str, scalars: Mapping[str, float]) -> None:
        """Appends a line."""
        line = {"step": step, "dataset": dataset, **scalars}
        self.lines.append(line)
        text = json.dumps(line) + "\n"
        self._digest.update(text.encode())
        with writing_to(self._path):
            self._file.write(text)
            self._file.flush()  # For `tail -f`.

    def flush(self) -> str:
        """Writes all lines to the disk, and returns their SHA-256."""
        with writing_to(self._path):
            os.fsync(self._file.fileno())  # After a power failure they are needed to resume.
        return self._digest.hexdigest()

    def close(self) -> None:
        """Flushes and closes the file."""
        with writing_to(self._path):
            self._file.close()


def read_journal(workdir: Path, last_step: int) -> list[dict[str, Any]]:
    """Returns the lines up to `last_step`; none if there is no journal."""
    return _read(workdir / "metrics.jsonl", last_step)[0]


def _read(path: Path, last_step: int) -> tuple[list[dict[str, Any]], bytearray]:
    """Returns the complete lines up to `last_step`, and their content."""
    lines, content = list[dict[str, Any]](), bytearray()
    if not path.exists():
        return lines, content
    with writing_to(path), open_regular(path) as file:
        last = 0
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):  # A killed process was writing it.
                break
            try:
                line = json.loads(text)
                previous, last = last, line["step"]
                problem = "has an earlier step than the line before" if last < previous else ""
            except (ValueError, KeyError, TypeError, RecursionError):
                problem = "is damaged"
            if problem:
                raise _error(path, f"line {number} {problem}")
            if last <= last_step:
                content += text
                lines.append(line)
    return lines, content


def _error(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: {problem}; restore the file, or choose another --workdir")

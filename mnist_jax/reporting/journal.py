"""`metrics.jsonl`: one JSON line per report, with every number of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_jax.runtime.errors import UserError, writing_to
from mnist_jax.runtime.files import open_regular


class Journal:
    """The journal of a run; `lines` are all so far: `step`, `dataset`, and numbers by tag."""

    def __init__(self, workdir: Path, first_step: int):
        """Opens the journal, and removes the lines after `first_step`.

        Raises:
          UserError: A line is damaged.
          WriteError: The file can't be written; also from every other method.
        """
        self._path = workdir / "metrics.jsonl"
        self.lines, size = _read(self._path, first_step)
        with writing_to(self._path):
            self._file = open_regular(self._path, "a")
            self._file.truncate(size)

    def write(self, step: int, dataset: str, scalars: Mapping[str, float]) -> None:
        """Appends a line."""
        line = {"step": step, "dataset": dataset, **scalars}
        self.lines.append(line)
        with writing_to(self._path):
            self._file.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Passes all lines to the operating system."""
        with writing_to(self._path):
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        with writing_to(self._path):
            self._file.close()


def read_journal(workdir: Path, last_step: int) -> list[dict[str, Any]]:
    """Returns the lines up to `last_step`; none if there is no journal.

    Raises:
      UserError: A line is damaged.
    """
    return _read(workdir / "metrics.jsonl", last_step)[0]


def _read(path: Path, last_step: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the complete lines up to `last_step`, and their size in bytes."""
    lines: list[dict[str, Any]] = []
    size = 0
    if not path.exists():
        return lines, size
    with writing_to(path), open_regular(path) as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):  # A killed process was writing it.
                break
            try:
                line = json.loads(text)
                if line["step"] > last_step:
                    break
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                message = f"{path}: line {number} is damaged; delete it, or move the file away"
                raise UserError(message) from error
            size += len(text)
            lines.append(line)
    return lines, size

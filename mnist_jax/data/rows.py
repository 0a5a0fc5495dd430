"""Arrays in files, of which only the rows asked for are read."""

import math
import operator
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.runtime.errors import refusing
from mnist_jax.runtime.files import open_regular

_Shape = tuple[int, ...]
_identity = operator.attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns")


class _File(NamedTuple):
    path: Path
    offset: int  # Of the first row, in bytes.
    num_rows: int
    identity: tuple[int, ...]  # When it was opened.


class Rows:
    """Rows of one shape and dtype in files, one file after the other.

    `rows[integers]` reads a new array, and `np.asarray(rows)` all; `rows[slice]` is a `Rows`.
    Nothing is mapped: mapped pages count as memory of the process, and a mapped file that
    shrinks ends it. Here it is a UserError, as is any other file in its place.
    """

    def __init__(self, files: list[_File], shape: _Shape, dtype: np.dtype, chosen: np.ndarray):
        self._files, self._chosen = files, chosen  # Which rows, counted through all files.
        self.shape, self.dtype, self.ndim = (len(chosen), *shape), dtype, 1 + len(shape)
        self.nbytes = math.prod(self.shape) * dtype.itemsize

    @staticmethod
    def of(array: np.memmap) -> "Rows":
        """Returns the rows of a memory map of a whole array in C order."""
        path = Path(array.filename or "")
        file = _File(path, array.offset, len(array), _identity(path.stat()))
        return Rows([file], array.shape[1:], array.dtype, np.arange(len(array), dtype=np.int32))

    @staticmethod
    def concatenate(parts: "list[Rows]", order: np.ndarray) -> "Rows":
        """Returns the rows `order`, int32[n], of several `Rows`, counted through all."""
        files: list[_File] = []
        chosen = []
        for part in parts:
            chosen.append(part._chosen + sum(file.num_rows for file in files))
            files += part._files
        return Rows(files, parts[0].shape[1:], parts[0].dtype, np.concatenate(chosen)[order])

    def reshape(self, shape: _Shape) -> "Rows":
        """Returns the same rows, each in another shape."""
        return Rows(self._files, shape[1:], self.dtype, self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[np.arange(len(self))], dtype)

    def __getitem__(self, key: slice | np.ndarray) -> Any:
        chosen = self._chosen[key]
        if isinstance(key, slice):
            return Rows(self._files, self.shape[1:], self.dtype, chosen)
        array = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        chosen, start = chosen.astype(np.int64), 0  # The file's first row.
        for file in self._files:
            places = np.flatnonzero((start <= chosen) & (chosen < start + file.num_rows))
            if len(places):
                _read(file, chosen[places] - start, array, places)
            start += file.num_rows
        return array


def _read(file: _File, rows: np.ndarray, array: np.ndarray, places: np.ndarray) -> None:
    """Reads rows of a file to their places in an array."""
    buffer = array.reshape(-1).view(np.uint8).data
    size = len(buffer) // len(array)
    # Rows that follow each other in the file and in the array are read at once.
    cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
    first, last = np.append(0, cuts), np.append(cuts, len(rows)) - 1
    ranges = file.offset + rows[first] * size, places[first] * size, (places[last] + 1) * size
    reads = list(zip(*(values.tolist() for values in ranges), strict=True))
    advice = "restore it, then run the same command again"
    with refusing(f"dataset: {file.path}", advice), open_regular(file.path) as opened:
        if _identity(os.fstat(opened.fileno())) != file.identity:
            raise OSError("has changed since it was opened")
        # Lets the disk fetch all of them at the same time: from a cold one in a sixth of it.
        for offset, start, stop in reads if hasattr(os, "posix_fadvise") else ():
            os.posix_fadvise(opened.fileno(), offset, stop - start, os.POSIX_FADV_WILLNEED)
        for offset, start, stop in reads:
            opened.seek(offset)
            if opened.readinto(buffer[start:stop]) < stop - start:
                raise OSError("has become shorter")

"""Datasets of tensorflow-datasets, read from a cache of their decoded arrays.

The cache lies beside the prepared dataset, so that only the first start pays for preparing
and decoding, and imports TensorFlow.
"""

import os
from pathlib import Path
from typing import IO

import numpy as np
from ml_collections import ConfigDict

from mnist_jax.data import tfds_preparation
from mnist_jax.data.datasets import Dataset, checked, empty_examples
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import first_line

_CACHE_NAME = "mnist_jax_examples.npz"
_SPLITS = ("train", "validation", "test")
_CHUNK = 2**20  # Bytes; each is checked while it is in the processor's caches.


def data_dir(config: ConfigDict) -> Path:
    """Where prepared datasets live: `config.data_dir`, else where TFDS itself looks."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(config.data_dir or default).expanduser().absolute()


def manual_dir(config: ConfigDict) -> Path:
    """Where the original archives may lie: `config.manual_dir`, the environment, TFDS's."""
    given = config.manual_dir or os.environ.get("MNIST_JAX_MANUAL_DIR")
    path = Path(given) if given else data_dir(config) / "downloads" / "manual"
    return path.expanduser().absolute()


def load(name: str, config: ConfigDict) -> Dataset:
    """Returns the dataset, from its cache or prepared and decoded anew.

    Raises:
      UserError, DatasetUnavailableError: As `tfds_preparation.load`.
    """
    cached = _newest_cache(data_dir(config) / name)
    if cached:
        try:
            return _read_cache(cached, name)
        except Exception as error:  # Of any type, as the damage is.
            terminal.print_warning(
                f"WARNING: {cached}: damaged ({first_line(error)}); rebuilding it"
            )

    dataset, folder = tfds_preparation.load(name, data_dir(config), manual_dir(config))
    _write_cache(folder / _CACHE_NAME, dataset)
    return dataset


def _newest_cache(dataset_folder: Path) -> Path | None:
    """Returns the cache in the folder of the dataset's newest version, if there is one."""

    def version(path: Path) -> tuple[int, ...]:
        return tuple(int(number) for number in path.parent.name.split("."))

    caches = [
        path
        for path in dataset_folder.glob(f"*/{_CACHE_NAME}")
        if path.parent.name.replace(".", "").isdecimal()
    ]
    return max(caches, key=version, default=None)


def _read_cache(path: Path, name: str) -> Dataset:
    """Reads what `_write_cache` wrote; the zip's CRC-32 of each array is checked."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        num_classes = int(arrays["num_classes"])
        sizes = dict(zip(_SPLITS, arrays["sizes"].tolist(), strict=True))
        examples = empty_examples(sum(sizes.values()))
        np.copyto(examples.label, arrays["label"], casting="no")
        with arrays.zip.open("image.npy") as member:
            _read_array(member, examples.image)
    return checked(Dataset(name, num_classes, examples, sizes))


def _read_array(file: IO[bytes], array: np.ndarray) -> None:
    """Reads an array of NumPy's format 1.0 to where it is to lie, without another copy."""
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if (shape, is_fortran, dtype) != (array.shape, False, array.dtype):
        raise ValueError(f"an array of {dtype}{list(shape)}")
    memory = array.data.cast("B")
    start = 0
    while size := file.readinto(memory[start : start + _CHUNK]):  # type: ignore[attr-defined]
        start += size
    if start != array.nbytes or file.read(1):
        raise ValueError(f"{start} bytes of {array.nbytes}")


def _write_cache(path: Path, dataset: Dataset) -> None:
    """Writes the arrays aside, then renames; a folder that can't be written goes without."""
    arrays = dataset.examples._asdict() | {
        "num_classes": np.array(dataset.num_classes),
        "sizes": np.array([dataset.sizes[split] for split in _SPLITS]),
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        terminal.print_warning(f"WARNING: the next start will decode again: {error}")

"""Datasets of tensorflow-datasets, read from a cache of their decoded arrays.

Only the first start prepares and decodes a dataset, which imports TensorFlow and takes up to
half a minute. The cache is a file beside the prepared dataset.
"""

import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mnist_jax.data.datasets import SPLITS, Dataset, Split
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import first_line
from mnist_jax.runtime.files import open_regular, replacing
from mnist_jax.runtime.run_folder import resolve

# To be increased when the decoding or the file changes: files of other versions are not read.
_CACHE_VERSION = 3


def data_dir(config: ConfigDict) -> Path:
    """Returns the folder of prepared datasets: `config.data_dir`, by default that of TFDS."""
    if config.data_dir:
        return resolve("config.data_dir", config.data_dir)
    return resolve("TFDS_DATA_DIR", os.getenv("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def manual_dir(config: ConfigDict) -> Path:
    """Returns the folder of original archives: `config.manual_dir`, by default that of TFDS."""
    if config.manual_dir:
        return resolve("config.manual_dir", config.manual_dir)
    default = data_dir(config) / "downloads" / "manual"
    return resolve("MNIST_JAX_MANUAL_DIR", os.getenv("MNIST_JAX_MANUAL_DIR") or default)


def load(name: str, config: ConfigDict) -> Dataset:
    """Loads the dataset `dataset` or `dataset/config` from its cache, or prepares it.

    Raises:
      UserError, DatasetUnavailableError: As `tfds_preparation.load`.
    """
    folder = resolve("dataset", data_dir(config) / name)
    cache = folder / f"mnist_jax_examples_v{_CACHE_VERSION}.npz"
    if cache.exists():
        try:
            return _read_cache(cache, name)
        except Exception as error:  # A damaged file raises errors of any type.
            reason = first_line(error)
            terminal.print_warning(f"WARNING: {cache}: damaged ({reason}); rebuilding it")

    from mnist_jax.data import tfds_preparation  # Imports tensorflow_datasets.

    dataset = tfds_preparation.load(name, data_dir(config), manual_dir(config))
    _write_cache(cache, dataset)
    return dataset


def _read_cache(path: Path, name: str) -> Dataset:
    """Reads a file of `_write_cache`; NumPy checks the CRC-32 of each array."""
    with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
        sizes = dict(zip(SPLITS, arrays["sizes"].tolist(), strict=True))
        examples = Split(arrays["image"], arrays["label"])
        class_names = tuple(arrays["class_names"].tolist())
        return Dataset(name, class_names, examples, sizes, arrays["digest"].item())


def _write_cache(path: Path, dataset: Dataset) -> None:
    """Writes the file; where that fails, prints a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(
                file,
                allow_pickle=False,
                image=dataset.examples.image,
                label=dataset.examples.label,
                sizes=list(dataset.sizes.values()),
                class_names=dataset.class_names,
                digest=dataset.digest,
            )
    except OSError as error:
        problem = f"{path}: can't be written ({first_line(error)})"
        terminal.print_warning(f"WARNING: {problem}; the next start decodes the dataset again")

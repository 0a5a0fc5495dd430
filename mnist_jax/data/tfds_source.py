"""Datasets of tensorflow-datasets, read from a cache of their decoded arrays.

Only the first start prepares and decodes a dataset, which takes up to half a minute. A process
of its own does that: TensorFlow would allocate the memory of the GPU that JAX uses (flax #445),
and keep its settings and threads. The cache is a file beside the prepared dataset.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
from ml_collections import ConfigDict

from mnist_jax.data.datasets import SPLITS, Dataset, Split
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import (
    CommandError,
    DatasetUnavailableError,
    UserError,
    first_line,
)
from mnist_jax.runtime.files import open_regular, replacing
from mnist_jax.runtime.run_folder import resolve

# To be increased when the decoding or the file changes: files of other versions are not read.
_CACHE_VERSION = 4
_ERRORS = {error.__name__: error for error in (UserError, DatasetUnavailableError)}


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
      CommandError: Its process failed otherwise, with a traceback on stderr.
    """
    folder = resolve("dataset", data_dir(config) / name)
    cache = folder / f"mnist_jax_examples_v{_CACHE_VERSION}.npz"
    if cache.exists():
        try:
            with open_regular(cache) as file:
                return _read(file, name)
        except Exception as error:  # A damaged file raises errors of any type.
            reason = first_line(error)
            terminal.print_warning(f"WARNING: {cache}: damaged ({reason}); rebuilding it")
    dataset = _prepare(name, config)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cache) as file:
            write(file, dataset)
    except OSError as error:
        problem = f"{cache}: can't be written ({first_line(error)})"
        terminal.print_warning(f"WARNING: {problem}; the next start decodes the dataset again")
    return dataset


def _prepare(name: str, config: ConfigDict) -> Dataset:
    """Loads the dataset by `python -m mnist_jax.data.tfds_preparation`."""
    command = [sys.executable, "-m", "mnist_jax.data.tfds_preparation", name]
    command += map(str, (data_dir(config), manual_dir(config)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile() as file:
        # In a session of its own, Ctrl-C only reaches this process, which ends the other.
        status = subprocess.run(
            command, env=environment, stdout=file, start_new_session=True, check=False
        ).returncode
        file.seek(0)
        if status == 0:
            return _read(file, name)
        kind, _, message = file.read().decode(errors="replace").partition(" ")
        if kind in _ERRORS:
            raise _ERRORS[kind](message)
        raise CommandError(f"dataset: {name}: its preparation ended with exit code {status}")


def write(file: IO[bytes], dataset: Dataset) -> None:
    """Writes a dataset, without its name, for `load`."""
    np.savez(
        file,
        allow_pickle=False,
        image=dataset.examples.image,
        label=dataset.examples.label,
        sizes=list(dataset.sizes.values()),
        class_names=dataset.class_names,
        digest=dataset.digest,
    )


def _read(file: IO[bytes], name: str) -> Dataset:
    """Reads what `write` wrote; NumPy checks the CRC-32 of each array."""
    with np.load(file, allow_pickle=False) as arrays:
        sizes = dict(zip(SPLITS, arrays["sizes"].tolist(), strict=True))
        examples = Split(arrays["image"], arrays["label"])
        class_names = tuple(arrays["class_names"].tolist())
        return Dataset(name, class_names, examples, sizes, arrays["digest"].item())

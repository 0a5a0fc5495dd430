"""Loads a dataset by its name or path, or the fallback where MNIST is not available."""

import dataclasses

from ml_collections import ConfigDict

from mnist_jax.data import builtin, own_files, tfds_source
from mnist_jax.data.datasets import Dataset
from mnist_jax.parallel import job
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import DatasetUnavailableError


def load_dataset(config: ConfigDict, *, may_fall_back: bool = True) -> Dataset:
    """Loads `config.dataset`, or `config.fallback_dataset` where MNIST is unavailable.

    The fallback stands in for MNIST alone. A run that is resumed may not fall back: it needs
    the dataset that it began with.

    Raises:
      UserError: The dataset does not exist or is unsuitable, or one of its files is damaged.
      DatasetUnavailableError: The dataset is unavailable and there is no fallback.
    """
    wanted, fallback = config.dataset, config.fallback_dataset
    try:
        dataset = _load(wanted, config)
    except DatasetUnavailableError as error:
        if not (may_fall_back and wanted == "mnist" and fallback):
            raise
        warning = (
            f"{wanted} is not available, so this run uses {fallback} instead, and its results "
            f"are those of {fallback}.\n{error}"
        )
        dataset = dataclasses.replace(_load(fallback, config), warnings=(warning,))
    if job.is_first_process():
        dataset.print_warnings()
    return dataset


def _load(name: str, config: ConfigDict) -> Dataset:
    if path := config_lib.own_path(name):
        return own_files.load(path, config)
    if name == "fake":
        return builtin.make_fake(config.seed)
    dataset = builtin.load_mnist_5k() if name == "mnist_5k" else tfds_source.load(name, config)
    normalization = "mnist" if name in ("mnist", "mnist_5k") else ""
    return dataclasses.replace(dataset, normalization=normalization)

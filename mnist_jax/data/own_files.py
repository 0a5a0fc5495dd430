"""A user's own dataset: an .npz file, or a folder of .npy files, IDX files or images."""

import concurrent.futures
import contextlib
import functools
import gzip
import hashlib
import math
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from mnist_jax.data import images
from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.data.rows import Rows
from mnist_jax.runtime import memory
from mnist_jax.runtime.errors import UserError, refusing
from mnist_jax.runtime.files import locked, open_regular, replacing

# To be increased when the decoding changes: images that were decoded before are not read.
_DECODING_VERSION = 1
_MAX_CLASSES = 2**16
_NUM_AHEAD = 64  # Decoded images that wait to be stored.
_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_Content = tuple[list[str], dict[str, Split]]  # Names of the classes, and the splits.


def load(path: Path, image_size: tuple[int, ...], *, data_dir: Path, on_disk: bool) -> Dataset:
    """Loads a user's own dataset; README.md lists its forms.

    The path, an absolute one, becomes the dataset's name. Images of a folder are resized to
    the height and width `image_size`; (): all of them have the same size. They are decoded
    into memory; if they would take more than a quarter of it, or `on_disk`, into a file in
    `data_dir`, once.

    Raises:
      UserError: A file is missing, damaged or unsuitable; names that file.
    """
    with _naming(path):
        path.stat()  # Raises an error if there is nothing, or no permission.
        if (path / "train").is_dir():
            return _load_images(path, image_size, data_dir, on_disk)
        if image_size:
            raise ValueError("not a folder of images, to which alone config.image_size applies")
        if path.is_file():
            content = _read_npz(path)
        elif (path / "x_train.npy").exists():
            content = _read_npy(path)
        elif any(path.glob("train-images-idx3-ubyte*")):
            splits = read_idx(path)
            content = _number_classes(splits), splits
        else:
            expected = "train/CLASS/, x_train.npy or train-images-idx3-ubyte.gz"
            raise ValueError(f"contains none of {expected}")
        return Dataset.from_splits(str(path), *content)


def _naming(path: Path) -> contextlib.AbstractContextManager[None]:
    # A damaged file raises errors of any type.
    return refusing(f"dataset: {path}", "correct it, or choose another", Exception)


def _read_npz(path: Path) -> _Content:
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle.
        raise ValueError("not an .npz file")
    with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
        return _read_arrays(arrays, arrays.__getitem__)


def _read_npy(folder: Path) -> _Content:
    def read(name: str) -> np.ndarray:
        with _naming(path := folder / f"{name}.npy"), open_regular(path) as file:
            is_image = name[:2] == "x_"  # Stays in its file.
            return npy.open_memmap(path, mode="r") if is_image else npy.read_array(file)

    return _read_arrays([path.stem for path in folder.glob("*.npy")], read)


def _read_arrays(names: Collection[str], read: Callable[[str], Any]) -> _Content:
    """Reads `x_train`, `y_train`, and optionally `x_val`, `x_test`, ... and `class_names`."""
    splits: dict[str, Split] = {}
    for key in sorted({"train", *(name[2:] for name in names if name[:2] in ("x_", "y_"))}):
        if key not in _FOLDERS or _FOLDERS[key] in splits:
            raise ValueError(f"contains a split {key!r}; use train, val and test, each once")
        splits[_FOLDERS[key]] = Split(read(f"x_{key}"), read(f"y_{key}"))
    if "class_names" in names:
        return read("class_names").astype(str).ravel().tolist(), splits
    return _number_classes(splits), splits


def read_idx(folder: Path) -> dict[str, Split]:
    """Reads a folder of IDX files; raises a UserError that names a wrong one."""
    parts = {"train": "train"} | ({"test": "t10k"} if any(folder.glob("t10k-*")) else {})
    splits = {}
    for split, part in parts.items():
        image = _read_idx_file(folder / f"{part}-images-idx3-ubyte")
        splits[split] = Split(image, _read_idx_file(folder / f"{part}-labels-idx1-ubyte"))
    return splits


def _read_idx_file(path: Path) -> np.ndarray:
    """Reads an array of bytes: http://yann.lecun.com/exdb/mnist describes the format."""
    path = path if path.is_file() else path.with_name(f"{path.name}.gz")
    with _naming(path):
        with open_regular(path) as file:
            content = file.read()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        shape = np.frombuffer(content, ">i4", content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _number_classes(splits: Mapping[str, Split]) -> list[str]:
    labels = [np.asarray(label) for _, label in splits.values()]
    if any(a.dtype.kind not in "biu" or a.shape[1:] not in ((), (1,)) for a in labels):
        return []
    largest = max(int(label.max(initial=0)) for label in labels)
    return [str(i) for i in range(min(largest + 1, _MAX_CLASSES))]


def _load_images(
    folder: Path, image_size: tuple[int, ...], data_dir: Path, on_disk: bool
) -> Dataset:
    """Reads `<split>/<class>/<image>`, the layout of tensorflow-datasets' `ImageFolder`."""
    names = [name for name in _FOLDERS if (folder / name).is_dir()]
    classes = [path for name in names for path in sorted(folder.glob(f"{name}/[!.]*/"))]
    class_names = sorted({path.name for path in classes})
    paths = [path for folder in classes for path in sorted(folder.glob("[!.]*"))]
    files = [path for path in paths if path.suffix.lower() in _SUFFIXES]
    if not files:
        raise ValueError(f"no images ({', '.join(_SUFFIXES)}) in train/CLASS/")
    image = _read_images(folder, files, image_size, data_dir, on_disk)
    label = np.searchsorted(class_names, [file.parts[-2] for file in files])
    splits, start = {}, 0
    for split in dict.fromkeys(_FOLDERS[name] for name in names):  # In the order of the files.
        stop = start + sum(_FOLDERS[file.parts[-3]] == split for file in files)
        splits[split] = Split(image[start:stop], label[start:stop])
        start = stop
    return Dataset.from_splits(str(folder), class_names, splits)


def _read_images(
    folder: Path, files: list[Path], image_size: tuple[int, ...], data_dir: Path, on_disk: bool
) -> np.ndarray | Rows:
    stats = [((s := file.stat()).st_size, s.st_mtime_ns, *file.parts[-3:]) for file in files]
    key = repr((_DECODING_VERSION, image_size, stats)).encode()
    stored = data_dir / "mnist_jax_images" / f"{hashlib.sha256(key).hexdigest()}.npy"
    if not stored.exists():
        decode = functools.partial(_decode, image_size, any(map(_is_colour, files)))
        shape = decode(files[0]).shape
        decoded = _decode_all(files, decode, shape)
        # `from_splits` copies them.
        if not on_disk and len(files) * math.prod(shape) <= memory.device_limit() // 4:
            return np.fromiter(decoded, np.dtype((np.uint8, shape)), len(files))
        advice = "make room, or set another"
        with refusing(f"data_dir: {stored.parent}", advice), locked(stored.with_name(".lock")):
            if not stored.exists():  # Else another process has stored them meanwhile.
                target = f"{len(files)} images of {folder} into {stored}"
                print(f"Decoding {target}, once ...", file=sys.stderr, flush=True)
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *shape)}
                with replacing(stored) as file:
                    npy.write_array_header_1_0(file, header)
                    file.writelines(image.data for image in decoded)
    with refusing(stored, "delete it, to decode them again", (OSError, ValueError)):
        return Rows.of(npy.open_memmap(stored, mode="r"))


def _decode_all(
    files: Sequence[Path], decode: Callable[[Path], np.ndarray], shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Decodes images in threads, some of them ahead of time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _NUM_AHEAD):
            some = files[start : start + _NUM_AHEAD]
            for file, image in zip(some, pool.map(decode, some), strict=True):
                if image.shape != shape:
                    raise UserError(
                        f"dataset: {file}: {image.shape[0]}x{image.shape[1]} pixels, but "
                        f"{files[0]} has {shape[0]}x{shape[1]}; set config.image_size"
                    )
                yield image


def _is_colour(path: Path) -> bool:
    with _naming(path):
        return images.is_colour(path)


def _decode(image_size: tuple[int, ...], is_colour: bool, path: Path) -> np.ndarray:
    with _naming(path):
        return images.to_input(images.open_image(path), image_size, is_colour)

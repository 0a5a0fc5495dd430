"""A user's own dataset: an .npz file, a folder of IDX files, or a folder of images."""

import concurrent.futures
import contextlib
import gzip
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.runtime.errors import UserError, first_line
from mnist_jax.runtime.files import open_regular

_MAX_CLASSES = 2**16
_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # None that runs another program.
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_Content = tuple[list[str], dict[str, Split]]  # Names of the classes, and the splits.


def load(path: Path, image_size: tuple[int, ...] = ()) -> Dataset:
    """Loads an `.npz` file, a folder of IDX files or a folder of images; see README.md.

    The path, an absolute one, becomes the dataset's name. Images of a folder are resized to
    the height and width `image_size`; (): all of them have the same size.

    Raises:
      UserError: A file is missing, damaged or unsuitable; names that file.
    """
    with _naming(path):
        path.stat()  # Raises an error if there is nothing, or no permission.
        if (path / "train").is_dir():
            class_names, splits = _read_images(path, image_size)
        elif image_size:
            raise ValueError("not a folder of images, to which alone config.image_size applies")
        elif path.is_file():
            class_names, splits = _read_npz(path)
        elif any(path.glob("train-images-idx3-ubyte*")):
            class_names, splits = _read_idx(path)
        else:
            raise ValueError("contains neither train/CLASS/ nor train-images-idx3-ubyte.gz")
        return Dataset.from_splits(str(path), class_names, splits)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Converts errors to a UserError that names the path, or the file that it named already."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # A damaged file raises errors of any type.
        raise UserError(f"dataset: {path}: {first_line(error)}") from error


def _read_npz(path: Path) -> _Content:
    """Reads `x_train`, `y_train`, and optionally `x_val`, `x_test`, ... and `class_names`."""
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle.
        raise ValueError("not an .npz file")
    with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
        splits = {
            split: Split(arrays[f"x_{key}"], arrays[f"y_{key}"])
            for split, key in (("train", "train"), ("validation", "val"), ("test", "test"))
            if key == "train" or {f"x_{key}", f"y_{key}"} & set(arrays)
        }
        if "class_names" in arrays:
            return arrays["class_names"].astype(str).ravel().tolist(), splits
    return _number_classes(splits), splits


def _read_idx(folder: Path) -> _Content:
    parts = {"train": "train"} | ({"test": "t10k"} if any(folder.glob("t10k-*")) else {})
    splits = {}
    for split, part in parts.items():
        image = _read_idx_file(folder / f"{part}-images-idx3-ubyte")
        splits[split] = Split(image, _read_idx_file(folder / f"{part}-labels-idx1-ubyte"))
    return _number_classes(splits), splits


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
    largest = max(int(label.max(initial=0)) for _, label in splits.values())
    return [str(i) for i in range(min(largest + 1, _MAX_CLASSES))]


def _read_images(folder: Path, image_size: tuple[int, ...]) -> _Content:
    """Reads `<split>/<class>/<image>`, the layout of tensorflow-datasets' `ImageFolder`."""
    names = [name for name in _FOLDERS if (folder / name).is_dir()]
    entries = [entry for name in names for entry in sorted(folder.glob(f"{name}/[!.]*"))]
    classes = [entry for entry in entries if entry.is_dir()]
    class_names = sorted({path.name for path in classes})
    files = [
        file
        for path in classes
        for file in sorted(path.glob("[!.]*"))
        if file.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise ValueError(f"no images ({', '.join(_SUFFIXES)}) in train/CLASS/")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda file: _decode(file, image_size), files))
    sizes = [f"{image.shape[0]}x{image.shape[1]}" for image in images]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            problem = f"{size} pixels, but {files[0]} has {sizes[0]}; set config.image_size"
            raise UserError(f"dataset: {file}: {problem}")
    if any(image.ndim == 3 for image in images):  # Grey ones among those in colour.
        images = [image if image.ndim == 3 else np.dstack([image] * 3) for image in images]
    image, label = np.stack(images), np.searchsorted(class_names, [f.parts[-2] for f in files])
    split_of = np.array([_FOLDERS[file.parts[-3]] for file in files])
    return class_names, {
        split: Split(image[split_of == split], label[split_of == split])
        for split in {_FOLDERS[name] for name in names}
    }


def _decode(path: Path, image_size: tuple[int, ...]) -> np.ndarray:
    """Returns `uint8[height, width]` of a grey image, else `uint8[height, width, 3]`."""
    with _naming(path), open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
        if image.mode[0] in "IF":  # Pillow would clip them at 255.
            raise ValueError("has 16 or 32 bits for each channel; save it with 8")
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        upright = ImageOps.exif_transpose(image).convert(mode)
        if image_size:
            upright = upright.resize((image_size[1], image_size[0]))
        return np.asarray(upright)

"""A user's own dataset: an .npz file, or a folder of .npy files, IDX files or images."""

import collections
import concurrent.futures
import contextlib
import gzip
import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

from mnist_jax.configs import default
from mnist_jax.data import images, tfds_source
from mnist_jax.data.datasets import SPLITS, Dataset, Split
from mnist_jax.data.rows import Rows
from mnist_jax.runtime import memory
from mnist_jax.runtime.errors import UserError, refusing
from mnist_jax.runtime.files import locked, open_regular, replacing

# To be increased when the decoding changes: images that were decoded before are not read.
_DECODING_VERSION = 2
_NUM_AHEAD = 64  # Decoded images that wait to be stored.
# Of folders and of arrays, in lower case.
_SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
}
# Of macOS, of network drives and of Windows.
_SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "#snapshot", "lost+found"}
_SYSTEM_FOLDERS |= {"$RECYCLE.BIN", "System Volume Information", "__pycache__"}

# The names of the classes, the splits, and the files or arrays that are not used.
_Content = tuple[Sequence[str], dict[str, Split], Iterable[Path]]


def load(path: Path, config: ConfigDict) -> Dataset:
    """Loads a user's own dataset; README.md lists its forms.

    The path, an absolute one, becomes the dataset's name. Images of a folder are resized to
    the height and width `config.image_size`; (): all of them have the same size. They are
    decoded into memory; if they would take more than a quarter of it, or with
    `config.examples` "host", into a file in the folder of prepared datasets, once.

    Raises:
      UserError: A file is missing, damaged or unsuitable; names that file.
    """
    with _naming(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of NumPy and Pillow, beside the error.
        with refusing(f"dataset: {path}", "give the path where it is now"):
            path.stat()
        folders = {} if path.is_file() else find_splits(path)
        initial = default.get_config()
        ignored = [n for n in ("image_size", "image_background") if config[n] != initial[n]]
        if folders:
            class_names, splits, unused = _read_folders(path, folders, config)
        elif ignored:
            raise ValueError(f"not a folder of images, to which config.{ignored[0]} applies")
        elif path.is_file():
            class_names, splits, unused = _read_npz(path)
        elif (path / "x_train.npy").exists():
            class_names, splits, unused = _read_npy(path)
        elif any(path.glob("train-images-idx3-ubyte*")):
            splits, unused = read_idx(path)
            class_names = _name_classes(splits["train"].label)
        else:
            expected = "train/CLASS/, x_train.npy or train-images-idx3-ubyte.gz"
            raise ValueError(f"contains none of {expected}")
        counts = collections.Counter(
            name.suffix.lower() or name.name for name in sorted(unused)
        )
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        skipped = [f"skipped {counts.total()} files: {kinds}"] if counts else []
        return Dataset.from_splits(str(path), class_names, splits, skipped)


def _naming(path: Path | str) -> contextlib.AbstractContextManager[None]:
    # A damaged file raises errors of any type.
    return refusing(f"dataset: {path}", "correct it, or choose another", Exception)


def _list(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir())
    return [p for p in paths if p.name[0] != "." and p.name not in _SYSTEM_FOLDERS]


def list_files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yields the files in a folder and below it, but nothing hidden or of a system."""
    for path in _list(folder):
        if not path.is_dir():
            yield path
        elif depth < 2 or not path.is_symlink():  # A deeper link could lead in a circle.
            yield from list_files(path, depth + 1)


def _read_npz(path: Path) -> _Content:
    # `np.load` would take what is no such file for a pickle.
    with open_regular(path) as file, NpzFile(file, allow_pickle=False) as arrays:
        return _read_arrays(path, map(Path, arrays), arrays.__getitem__)


def _read_npy(folder: Path) -> _Content:
    def read(name: str) -> np.ndarray:
        with open_regular(path := folder / f"{name}.npy") as file:
            is_image = name[:2] == "x_"  # Stays in its file.
            return npy.open_memmap(path, mode="r") if is_image else npy.read_array(file)

    return _read_arrays(folder, _list(folder), read)


def _read_arrays(source: Path, files: Iterable[Path], read: Callable[[str], Any]) -> _Content:
    """Reads `x_train`, `y_train`, and optionally `x_val`, `x_test`, ... and `class_names`."""

    def read_named(name: str) -> Any:
        unused.pop(name, None)
        with _naming(f"{source}: no readable array {name}"):
            return read(name)

    splits: dict[str, Split] = {}
    unused = {path.stem if path.suffix == ".npy" else path.name: path for path in files}
    for key in sorted({"train", *(name[2:] for name in unused if name[:2] in ("x_", "y_"))}):
        split = _SPLITS.get(key)
        if not split or split in splits:
            raise ValueError(f"contains a split {key!r}; use train, val and test, each once")
        splits[split] = Split(read_named(f"x_{key}"), read_named(f"y_{key}"))
    names = None
    if "class_names" in unused:
        names = read_named("class_names").astype(str).ravel().tolist()
    return _name_classes(splits["train"].label, names), splits, unused.values()


def read_idx(folder: Path) -> tuple[dict[str, Split], set[Path]]:
    """Reads a folder of IDX files; raises a UserError that names a wrong one.

    Returns:
      Its splits, and the files that are not used.
    """
    parts = {"train": "train"} | ({"test": "t10k"} if any(folder.glob("t10k-*")) else {})
    splits, unused = {}, set(_list(folder))
    for split, part in parts.items():
        names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        paths = [p if (p := folder / n).is_file() else folder / f"{n}.gz" for n in names]
        splits[split] = Split(*map(_read_idx_file, paths))
        unused.difference_update(paths)
    return splits, unused


def _read_idx_file(path: Path) -> np.ndarray:
    """Reads an array of bytes: http://yann.lecun.com/exdb/mnist describes the format."""
    with _naming(path):
        with open_regular(path) as file:
            content = file.read()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        shape = np.frombuffer(content, ">i4", content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _name_classes(label: Any, names: Sequence[str] | None = None) -> Sequence[str]:
    """Returns names of the classes, those given or else numbers; none if there are no classes.

    Numbers need training labels 0, 1, 2, ... without gaps.

    Raises:
      ValueError: A class with a name has no training examples.
    """
    label = np.asarray(label)
    if label.dtype.kind not in "biu" or label.size != len(label):
        return names or []
    found = set(label.ravel().tolist())
    if names and (missing := set(range(len(names))) - found):
        raise ValueError(f"class {names[min(missing)]!r} has no training examples")
    is_without_gaps = found == set(range(len(found)))
    numbers = [str(i) for i in range(len(found)) if is_without_gaps]
    return numbers if names is None else names


def find_splits(folder: Path) -> dict[str, Path]:
    """Returns the folders of the splits, or none without that of the training images."""
    found: dict[str, Path] = {}
    for path in _list(folder):
        split = _SPLITS.get(path.name.lower())
        if split and path.is_dir() and found.setdefault(split, path) != path:
            raise ValueError(f"{found[split].name}/ and {path.name}/ are the same split")
    return found if "train" in found else {}


def _read_folders(folder: Path, folders: Mapping[str, Path], config: ConfigDict) -> _Content:
    """Reads `<split>/<class>/<image>`, the layout of tensorflow-datasets' `ImageFolder`."""
    suffixes, files, places = images.suffixes(), list[Path](), dict[str, slice]()
    for split in (split for split in SPLITS if split in folders):
        start = len(files)
        for path in filter(Path.is_dir, _list(folders[split])):
            found = [file for file in _list(path) if file.suffix.lower() in suffixes]
            if not found:
                raise ValueError(f"class {path} contains no image that can be read")
            files += found
        places[split] = slice(start, len(files))
    if not files[places["train"]]:
        raise ValueError(f"no images ({', '.join(sorted(suffixes))}) in train/CLASS/")
    names, label = np.unique([file.parts[-2] for file in files], return_inverse=True)
    class_names = _name_classes(label[places["train"]], names.tolist())
    if odd := [name for name in class_names if not name.isprintable()]:
        raise ValueError(f"class {odd[0]!r}: rename it, without what can't be printed")
    image = _read_images(folder, files, config)
    splits = {split: Split(image[place], label[place]) for split, place in places.items()}
    return class_names, splits, set(list_files(folder)).difference(files)


def _read_images(folder: Path, files: list[Path], config: ConfigDict) -> np.ndarray | Rows:
    size, background = config.image_size, config.image_background
    stats = [((s := file.stat()).st_size, s.st_mtime_ns, *file.parts[-3:]) for file in files]
    key = repr((_DECODING_VERSION, (size, background), stats)).encode()
    stored = tfds_source.data_dir(config) / "mnist_jax_images"
    stored /= f"{hashlib.sha256(key).hexdigest()}.npy"
    if not stored.exists():
        is_colour = any(map(_is_colour, files))

        def decode(path: Path) -> np.ndarray:
            with _naming(path):
                return images.to_input(images.open_image(path), size, is_colour, background)

        shape = decode(files[0]).shape
        decoded = _decode_all(files, decode, shape)
        # `from_splits` copies them.
        is_small = len(files) * math.prod(shape) <= memory.device_limit() // 4
        if is_small and config.examples != "host":
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
                    sizes = "{} high and {} wide, but {} is {} high and {} wide"
                    sizes = sizes.format(*image.shape[:2], files[0], *shape[:2])
                    raise UserError(f"dataset: {file} is {sizes}; set config.image_size")
                yield image


def _is_colour(path: Path) -> bool:
    with _naming(path):
        return images.is_colour(path)

"""Decodes a dataset of tensorflow-datasets, and prepares it where that has not been done.

    python -m mnist_jax.data.tfds_preparation NAME DATA_DIR MANUAL_DIR

This process writes the dataset to stdout, for `tfds_source`, or an error: its type, a space and
its message. Everything for people goes to stderr.
"""

import contextlib
import difflib
import hashlib
import os
import shutil
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds  # It imports TensorFlow when it prepares or reads.
from tensorflow_datasets.core import DatasetBuilder

from mnist_jax.data import own_files, tfds_source
from mnist_jax.data.datasets import SPLITS, Dataset, Split
from mnist_jax.runtime.errors import DatasetUnavailableError, UserError, first_line, refusing
from mnist_jax.runtime.files import locked, open_regular

# `Dataset.digest` of those whose archives are also distributed in another compression.
_DIGESTS = {
    "mnist": "4bca2d9cd005b292a93aecfdcfbbd94d2f8808671dcc1560f40219f9625c5813",
    "fashion_mnist": "ee7b32e9c7e33f644d9e05375fb7d42a64281498d9527bb2d2c63d6bad998a65",
}
_DELETE = "delete that folder, and the next start prepares it again"
_SUITABLE = "choose a classification dataset whose images have one size"


def main(name: str, data_dir: str, manual_dir: str) -> None:
    """Writes a dataset to stdout."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # tensorflow-datasets prints that it downloads, even where it does not.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with output:
        try:
            tfds_source.write(output, load(name, Path(data_dir), Path(manual_dir)))
        except UserError as error:
            output.write(f"{type(error).__name__} {error}".encode())
            sys.exit(error.exit_code)


def load(name: str, data_dir: Path, manual_dir: Path) -> Dataset:
    """Decodes a dataset; prepares it first if necessary.

    All checks come before the import of TensorFlow, so their errors are reported at once.

    Raises:
      UserError: The dataset does not exist or is unsuitable, or one of its files is damaged.
      DatasetUnavailableError: It is not prepared, and there are no archives and no network.
    """
    builder = _create_builder(name, data_dir)
    _check_features(name, builder)
    # It writes this file last; its own `is_prepared` warns if there is none.
    if not Path(builder.data_dir, "dataset_info.json").is_file():
        try:
            download_config = _find_archives(name, builder, data_dir, manual_dir)
        except UserError:
            if repacked := _read_repacked(name, builder, manual_dir):
                return repacked
            raise
        source = download_config.manual_dir or "the network"
        print(f"Preparing {name} from {source}, once ...", file=sys.stderr, flush=True)
        _prepare(builder, data_dir, download_config)
        builder = tfds.builder(name, data_dir=data_dir)  # Another process may have prepared it.
    with refusing(f"prepared dataset {builder.data_dir}", _DELETE, Exception):  # Of any type.
        splits = {part: _read(builder, part) for part in SPLITS if part in builder.info.splits}
    with refusing(f"dataset: {name!r}", _SUITABLE, ValueError):
        # Some datasets know the names of their classes only when they are prepared.
        return Dataset.from_splits(name, builder.info.features["label"].names, splits)


def _create_builder(name: str, data_dir: Path) -> DatasetBuilder:
    # `tfds.builder` looks for an unknown name in the cloud.
    if not any((data_dir / name).glob("*/dataset_info.json")):
        base = name.partition("/")[0]
        known = tfds.list_builders(with_community_datasets=False)
        if base in known:
            configs = tfds.builder_cls(base).BUILDER_CONFIGS
            known = [base, *(f"{base}/{config.name}" for config in configs)]
        if name not in known:
            near = difflib.get_close_matches(name, ["mnist_5k", "fake", *known], n=1)
            hint = f"did you mean {near[0]}?" if near else "see tensorflow.org/datasets/catalog"
            raise UserError(f"dataset: there is no {name!r}; {hint}")
    # It would read from a cloud that is disabled, and leaves a folder in the temp folder.
    tfds.core.DatasetInfo.initialize_from_bucket = lambda self: None
    with refusing(f"prepared dataset {data_dir / name}", _DELETE, Exception):
        return tfds.builder(name, data_dir=data_dir)


def _check_features(name: str, builder: DatasetBuilder) -> None:
    """Raises UserError if the dataset, which need not be prepared, is unsuitable."""
    features = builder.info.features
    try:
        image, label = features["image"], features["label"]
        suits = image.np_dtype == np.uint8 and label.shape == () and bool(label.names)
    except (KeyError, TypeError, AttributeError):
        suits = False
    if not suits:
        raise UserError(f"dataset: {name!r} has no image with one class label; {_SUITABLE}")
    if None in image.shape:
        raise UserError(f"dataset: the images of {name!r} differ in size; {_SUITABLE}")


def _find_archives(
    name: str, builder: DatasetBuilder, data_dir: Path, manual_dir: Path
) -> tfds.download.DownloadConfig:
    """Returns the config to get the archives from `manual_dir`, or else from the network."""
    url_infos = builder.url_infos or {}
    checksums = {manual_dir / info.filename: info.checksum for info in url_infos.values()}
    missing = [path.name for path in checksums if not path.is_file()]
    if missing or not checksums:
        url = next(iter(url_infos), "https://storage.googleapis.com")
        if problem := find_network_problem(url):  # tensorflow-datasets retries for 200 seconds.
            raise DatasetUnavailableError(
                f"dataset: {name} is not prepared in {data_dir}, {manual_dir} does not contain "
                f"{', '.join(missing) or 'its archives'}, and it can't be downloaded "
                f"({problem}); put the original files into a folder and give it in "
                "--config.manual_dir or MNIST_JAX_MANUAL_DIR"
            )
        return tfds.download.DownloadConfig()
    for path, expected in checksums.items():
        with open_regular(path) as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            problem = f"not the file of {name}: its SHA-256 is {actual}, expected {expected}"
            raise UserError(f"{path}: {problem}; copy or download it again")
    return tfds.download.DownloadConfig(manual_dir=manual_dir)


def _read_repacked(name: str, builder: DatasetBuilder, manual_dir: Path) -> Dataset | None:
    """Reads archives that contain the original files in another compression."""
    with contextlib.suppress(KeyError, OSError, UserError, ValueError):
        digest, class_names = _DIGESTS[name], builder.info.features["label"].names
        dataset = Dataset.from_splits(name, class_names, own_files.read_idx(manual_dir)[0])
        return dataset if dataset.digest == digest else None
    return None


def find_network_problem(url: str, timeout: float = 5) -> str | None:
    """Returns why a URL can't be downloaded, or None if it can; `timeout` is in seconds."""
    host = urllib.parse.urlsplit(url).netloc
    try:
        with urllib.request.urlopen(url, timeout=timeout):
            return None
    except Exception as error:  # Proxies and captive portals answer in many ways.
        return f"{host}: {first_line(error.__context__ or error)}"  # The cause of a URLError.


def _prepare(
    builder: DatasetBuilder, data_dir: Path, download_config: tfds.download.DownloadConfig
) -> None:
    """Prepares the dataset, unless another process has done so."""
    # One process at a time: tensorflow-datasets extracts the archives of all to the same place.
    with locked(data_dir / ".mnist_jax.lock"):
        for path in Path(builder.data_dir).parent.glob("incomplete.*"):
            shutil.rmtree(path)  # A killed process left it.
        try:
            builder.download_and_prepare(download_config=download_config)
        except Exception as error:
            reason = first_line(error)
            # The errors of `requests` are OSErrors without a number.
            if getattr(error, "errno", None) and not isinstance(error, ConnectionError):
                raise UserError(f"data_dir: {data_dir}: {reason}") from error
            problem = f"{builder.name} could not be prepared: {reason}"
            raise DatasetUnavailableError(f"dataset: {problem}") from error


def _read(builder: DatasetBuilder, split: str) -> Split:
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        examples = list(builder.as_data_source(split=split))
        batch = {key: [example[key] for example in examples] for key in ("image", "label")}
    else:
        # One shard after the other: by default they are interleaved.
        read_config = tfds.ReadConfig(interleave_cycle_length=1)
        batch = builder.as_dataset(split=split, batch_size=-1, read_config=read_config)
    image, label = np.asarray(batch["image"]), np.asarray(batch["label"])
    if builder.name == "emnist":  # Its files have rows and columns exchanged.
        image = image.swapaxes(1, 2)
    if not builder.info.disable_shuffling:
        order = _original_order(split, len(label))
        image, label = image[order], label[order]
    return Split(image, label)


def _original_order(split: str, num_examples: int) -> np.ndarray:
    """Returns the index of each example of the original files among the stored ones.

    tensorflow-datasets stores examples in the order of the MD5 of the split's name and their
    key (`core/hashing.py`). The keys of the MNIST family are the indices in the original
    files, which the tutorial's validation split needs; other keys give another fixed order.
    """
    hashes = [hashlib.md5(f"{split}{index}".encode()).digest() for index in range(num_examples)]
    # The position of each hash among the sorted ones.
    return np.argsort(np.argsort(np.array(hashes, dtype="S16"), kind="stable"))


if __name__ == "__main__":
    main(*sys.argv[1:])

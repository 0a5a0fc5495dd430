"""A dataset of tensorflow-datasets as arrays, preparing it where that is still to do."""

import contextlib
import difflib
import fcntl
import hashlib
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.data.datasets import Dataset, Split, join
from mnist_jax.runtime.errors import DatasetUnavailableError, UserError, first_line

# The tutorial's 5,000 of 60,000; where the dataset has no validation split of its own.
_VALIDATION_SHARE = 12
_NETWORK_TIMEOUT = 5.0  # Seconds; tensorflow-datasets itself gives up after 200.


def load(name: str, data_dir: Path, manual_dir: Path) -> tuple[Dataset, Path]:
    """Prepares the dataset if need be, and decodes it.

    Args:
      name: `dataset` or `dataset/config`.
      data_dir: Where prepared datasets live.
      manual_dir: Where its original archives may lie, by their original names.

    Returns:
      The dataset, and the folder it is prepared in.

    Raises:
      UserError: No such dataset, not of 28x28 grey images with one label each, or a file
        that is not what it should be.
      DatasetUnavailableError: Not prepared, no archives, no network.
    """
    # Up to the decoding it runs without TensorFlow: what is wrong is told within a second,
    # and that there is no network within `_NETWORK_TIMEOUT` more.
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir, tfds)
    num_classes = _check_features(name, builder)
    if not _is_prepared(builder):
        source, download_config = _find_source(name, builder, data_dir, manual_dir, tfds)
        print(f"Preparing {name} from {source}, once ...", file=sys.stderr, flush=True)
        _import_tensorflow()
        with _alone(data_dir):
            if not _is_prepared(builder):
                _prepare(name, builder, data_dir, download_config, tfds)
        # Read it afresh: another process may have prepared it meanwhile.
        builder = _builder(name, data_dir, tfds)
    _import_tensorflow()
    try:
        dataset = _decode(name, builder, num_classes, tfds)
    except Exception as error:
        raise UserError(
            f"{builder.data_dir}: the prepared dataset can't be read ({first_line(error)}); "
            "delete that folder to have it prepared again"
        ) from error
    return dataset, Path(builder.data_dir)


def _import_tensorflow() -> None:
    """Imports TensorFlow, which here only reads, quietly and without touching a GPU."""
    # Its start-up notices on stderr would be the first thing a user reads.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    # Else it would take the whole memory of the GPU that JAX is to use (flax #445).
    tf.config.set_visible_devices([], "GPU")


def _builder(name: str, data_dir: Path, tfds: Any) -> Any:
    base, _, config = name.partition("/")
    if not (data_dir / name).is_dir():
        # Asked first, since `tfds.builder` would look for an unknown name in the cloud.
        try:
            configs = [c.name for c in tfds.builder_cls(base).BUILDER_CONFIGS]
        except ValueError as error:
            known = ["mnist_5k", "fake", *tfds.list_builders(with_community_datasets=False)]
            near = difflib.get_close_matches(base, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see tensorflow.org/datasets/catalog"
            raise UserError(f"dataset: there is no {name!r}; {hint}") from error
        if config and config not in configs:
            raise UserError(
                f"dataset: there is no {name!r}; the configurations of {base}: "
                f"{', '.join(configs) or 'none'}"
            )
    return tfds.builder(name, data_dir=data_dir)


def _is_prepared(builder: Any) -> bool:
    # The file that tensorflow-datasets writes last; its own `is_prepared` warns where it
    # is not there yet.
    return (Path(builder.data_dir) / "dataset_info.json").is_file()


def _check_features(name: str, builder: Any) -> int:
    """Returns the number of classes; the features are known before any download."""
    features = builder.info.features
    try:
        shape = tuple(features["image"].shape)
        num_classes = features["label"].num_classes
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"dataset: {name!r} has no image with one class label; choose a classification "
            "dataset of 28x28 grey images"
        ) from error
    if shape != (28, 28, 1) or features["image"].np_dtype != np.uint8 or not num_classes:
        raise UserError(
            f"dataset: the images of {name!r} are {shape}; choose a classification dataset "
            "of 28x28 grey images"
        )
    return int(num_classes)


def _find_source(
    name: str, builder: Any, data_dir: Path, manual_dir: Path, tfds: Any
) -> tuple[str, Any]:
    """Returns where the archives come from, in words and as a `DownloadConfig`."""
    url_infos = builder.url_infos or {}
    files = {manual_dir / info.filename: info.checksum for info in url_infos.values()}
    missing = [path.name for path in files if not path.is_file()]
    if files and not missing:
        for path, checksum in files.items():
            _check_sha256(name, path, checksum)
        return str(manual_dir), tfds.download.DownloadConfig(manual_dir=manual_dir)
    url = next(iter(url_infos), "https://storage.googleapis.com")
    problem = _probe(url)
    if problem:
        raise DatasetUnavailableError(
            f"dataset: {name} is not prepared in {data_dir}, {manual_dir} lacks "
            f"{', '.join(missing) or 'its files'}, and the network does not give it "
            f"({problem}); put the original files into a folder and name it in "
            "--config.manual_dir or MNIST_JAX_MANUAL_DIR"
        )
    return urllib.parse.urlsplit(url).netloc, tfds.download.DownloadConfig()


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Waits until no other process prepares a dataset here, and keeps others waiting.

    tensorflow-datasets extracts archives to one place, under the feet of who reads there.
    """
    with contextlib.ExitStack() as stack:
        # Some network folders know no locks: there it goes without.
        with contextlib.suppress(OSError):
            data_dir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((data_dir / ".mnist_jax.lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare(name: str, builder: Any, data_dir: Path, download_config: Any, tfds: Any) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results.
            builder.download_and_prepare(download_config=download_config)
    except Exception as error:
        # Of two processes that prepare it at once, without a lock, one can fail.
        if _is_prepared(builder):
            return
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            raise UserError(f"data_dir: {data_dir}: {first_line(error)}") from error
        raise DatasetUnavailableError(
            f"dataset: {name} could not be prepared: {first_line(error)}"
        ) from error


def _check_sha256(name: str, path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise UserError(
            f"{path}: not the file of {name}: its SHA-256 is {actual}, expected {expected}; "
            "copy or download it again"
        )


def _probe(url: str) -> str | None:
    """Returns why the file can't be downloaded, None where it seems that it can.

    In a thread, because a name look-up heeds no timeout.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=_NETWORK_TIMEOUT):
                outcome.append(None)
        except urllib.error.URLError as error:
            outcome.append(str(error.reason) if not hasattr(error, "code") else str(error))
        except (OSError, ValueError) as error:
            outcome.append(str(error) or type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_NETWORK_TIMEOUT)
    host = urllib.parse.urlsplit(url).netloc
    reason = outcome[0] if outcome else f"no answer within {_NETWORK_TIMEOUT:.0f} s"
    return None if outcome and reason is None else f"{host}: {reason}"


def _decode(name: str, builder: Any, num_classes: int, tfds: Any) -> Dataset:
    """Reads all examples; the validation split is the training files' beginning."""
    info = builder.info
    array_record = info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    # One shard after the other: the default interleaves them.
    read_config = tfds.ReadConfig(interleave_cycle_length=1)

    def read(split: str) -> Split:
        if array_record:
            examples = list(builder.as_data_source(split=split))
            image = np.stack([example["image"] for example in examples])
            label = np.array([example["label"] for example in examples])
        else:
            batch = builder.as_dataset(
                split=split, batch_size=-1, shuffle_files=False, read_config=read_config
            )
            image, label = (np.asarray(batch[key]) for key in ("image", "label"))
        stored = Split(image.reshape(-1, 28, 28), label.astype(np.int32))
        return stored if info.disable_shuffling else _unshuffle(stored, split)

    train, test = read("train"), read("test")
    if "validation" in info.splits:
        validation = read("validation")
    else:
        cut = max(1, len(train.label) // _VALIDATION_SHARE)
        validation, train = (
            Split(train.image[part], train.label[part]) for part in (np.s_[:cut], np.s_[cut:])
        )
    return join(name, num_classes, train=train, validation=validation, test=test)


def _unshuffle(stored: Split, name: str) -> Split:
    """Returns the examples in the order of the dataset's original files.

    tensorflow-datasets stores them in the order of the MD5 of the split's name and their
    key (its `core/hashing.py`; a change there would need a new major version of every
    dataset), and the key of the MNIST family is the index in the file. Without this, the
    validation split would not be the tutorial's, whose accuracy is 0.8 % higher. Where
    keys are something else, the order is another fixed one.
    """
    count = len(stored.label)
    hashes = [hashlib.md5(f"{name}{index}".encode()).digest() for index in range(count)]
    order = np.argsort(np.array(hashes, dtype="S16"), kind="stable")
    position = np.empty(count, np.int64)
    position[order] = np.arange(count)
    return Split(stored.image[position], stored.label[position])

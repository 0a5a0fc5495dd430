"""Datasets of tensorflow-datasets: where they are looked for, and what is made of them."""

import gzip
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import default
from mnist_jax import input_pipeline
from mnist_jax.data import tfds_preparation
from mnist_jax.runtime.errors import DatasetUnavailableError, UserError

CACHE = "mnist_jax_examples.npz"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A config whose dataset is nowhere: no data, no archives, no network."""
    monkeypatch.delenv("MNIST_JAX_MANUAL_DIR", raising=False)
    monkeypatch.setattr(tfds_preparation, "_probe", lambda url: "no network in this test")
    config = default.get_config()
    config.data_dir = str(tmp_path / "data")
    return config


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an array of bytes in MNIST's own format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.mark.mnist
def test_mnist_is_the_files_in_their_order(mnist_config):
    manual_dir = Path(os.environ.get("MNIST_JAX_MANUAL_DIR", "")).absolute()
    if not (manual_dir / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST's four files in MNIST_JAX_MANUAL_DIR")

    def read(name: str, offset: int) -> np.ndarray:
        with gzip.open(manual_dir / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    train_image = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    train_label = read("train-labels-idx1-ubyte.gz", 8)
    dataset = input_pipeline.load(mnist_config)
    np.testing.assert_array_equal(dataset.validation.image, train_image[:5000])
    np.testing.assert_array_equal(dataset.validation.label, train_label[:5000])
    np.testing.assert_array_equal(dataset.train.image, train_image[5000:])
    np.testing.assert_array_equal(dataset.train.label, train_label[5000:])
    test_image = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    np.testing.assert_array_equal(dataset.test.image, test_image)
    np.testing.assert_array_equal(dataset.test.label, read("t10k-labels-idx1-ubyte.gz", 8))


@pytest.mark.mnist
def test_a_second_start_imports_no_tensorflow(mnist_config):
    program = (
        "import sys\n"
        "from configs import default\n"
        "from mnist_jax import input_pipeline\n"
        "config = default.get_config()\n"
        f"config.data_dir = {mnist_config.data_dir!r}\n"
        "assert input_pipeline.load(config).name == 'mnist'\n"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def prepare_small(name: str, data_dir: Path, file_format: str = "tfrecord") -> list[dict]:
    """Prepares a dataset of 10 times its classes, by tensorflow-datasets itself.

    Returns:
      The training examples, in the order of the files.
    """
    builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
    num_classes = builder.info.features["label"].num_classes
    rng = np.random.default_rng(0)

    def examples(per_class: int) -> list[dict]:
        return [
            {"image": rng.integers(0, 256, (28, 28, 1), np.uint8), "label": i % num_classes}
            for i in range(per_class * num_classes)
        ]

    train, test = examples(12), examples(2)
    with pytest.MonkeyPatch.context() as patch:
        splits = {"train": list(enumerate(train)), "test": list(enumerate(test))}
        patch.setattr(type(builder), "_split_generators", lambda self, manager: splits)
        builder.download_and_prepare()
    return train


@pytest.mark.parametrize(
    ("name", "file_format", "num_classes"),
    [
        ("mnist", "tfrecord", 10),
        ("mnist", "array_record", 10),
        ("fashion_mnist", "tfrecord", 10),
        ("kmnist", "tfrecord", 10),
        ("emnist/balanced", "tfrecord", 47),
    ],
)
def test_a_prepared_dataset_is_read_in_the_files_order(nowhere, name, file_format, num_classes):
    examples = prepare_small(name, Path(nowhere.data_dir), file_format)
    nowhere.dataset = name
    for _ in range(2):  # Decoded, then from the cache.
        dataset = input_pipeline.load(nowhere)
        assert (dataset.name, dataset.num_classes) == (name, num_classes)
        assert [len(s.label) for s in dataset.splits.values()] == [
            11 * num_classes,
            num_classes,
            2 * num_classes,
        ]
        image = np.concatenate([dataset.validation.image, dataset.train.image])
        np.testing.assert_array_equal(image, [e["image"][..., 0] for e in examples])
        label = np.concatenate([dataset.validation.label, dataset.train.label])
        np.testing.assert_array_equal(label, [e["label"] for e in examples])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_rebuilt(nowhere, damage, capsys):
    prepare_small("mnist", Path(nowhere.data_dir))
    good = input_pipeline.load(nowhere)
    (cache,) = Path(nowhere.data_dir).rglob(CACHE)
    damage(cache)
    rebuilt = input_pipeline.load(nowhere)
    assert str(cache) in capsys.readouterr().err
    for a, b in zip(good.splits.values(), rebuilt.splits.values(), strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)
    input_pipeline.load(nowhere)
    assert not capsys.readouterr().err


def test_a_damaged_preparation_is_an_error_that_names_it(nowhere):
    prepare_small("mnist", Path(nowhere.data_dir))
    (records,) = Path(nowhere.data_dir).rglob("mnist-train.tfrecord*")
    cut_short(records)
    with pytest.raises(UserError, match=r"mnist/3\.0\.1: .* delete that folder"):
        input_pipeline.load(nowhere)


def test_mnist_5k_stands_in_where_mnist_cannot_be_had(nowhere, capsys):
    dataset = input_pipeline.load(nowhere)
    assert dataset.name == "mnist_5k"
    warning = capsys.readouterr().err
    assert "WARNING: mnist can't be had, so this run uses mnist_5k instead" in warning
    assert "no network in this test" in warning
    assert not Path(nowhere.data_dir).exists()


def test_without_a_fallback_the_error_says_how_to_bring_the_files(nowhere):
    nowhere.fallback_dataset = ""
    with pytest.raises(DatasetUnavailableError) as error:
        input_pipeline.load(nowhere)
    for word in (
        "t10k-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        f"{nowhere.data_dir}/downloads/manual",
        "--config.manual_dir",
        "MNIST_JAX_MANUAL_DIR",
    ):
        assert word in str(error.value)


def test_a_network_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(tfds_preparation, "_NETWORK_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert f"127.0.0.1:{port}" in tfds_preparation._probe(f"http://127.0.0.1:{port}/file")


def test_archives_must_be_the_datasets_own(nowhere, tmp_path):
    nowhere.manual_dir = str(tmp_path / "files")
    Path(nowhere.manual_dir).mkdir()
    for part in ("t10k", "train"):
        write_idx(
            tmp_path / f"files/{part}-images-idx3-ubyte.gz", np.zeros((2, 28, 28), np.uint8)
        )
        write_idx(tmp_path / f"files/{part}-labels-idx1-ubyte.gz", np.zeros(2, np.uint8))
    with pytest.raises(
        UserError, match=r"t10k-images-idx3-ubyte\.gz: .* SHA-256 .* expected 8d42"
    ):
        input_pipeline.load(nowhere)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "did you mean mnist"),
        ("emnist/balansed", "byclass, bymerge, balanced"),
        ("cifar10", r"\(32, 32, 3\)"),
        ("ag_news_subset", "no image"),
    ],
)
def test_other_datasets_are_refused_before_any_download(nowhere, name, message):
    nowhere.dataset = name
    with pytest.raises(UserError, match=message):
        input_pipeline.load(nowhere)
    assert not Path(nowhere.data_dir).exists()

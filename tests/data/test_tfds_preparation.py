"""What is made of the datasets of tensorflow-datasets, and what is refused."""

import errno
import gzip
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from mnist_jax.data import tfds_preparation
from mnist_jax.data.load import load_dataset
from mnist_jax.runtime.errors import DatasetUnavailableError, UserError
from tests.data.small_datasets import prepare_small, write_idx


@pytest.mark.mnist
def test_mnist_is_in_the_order_of_its_files(mnist_config):
    manual_dir = Path(os.environ.get("MNIST_JAX_MANUAL_DIR", "")).absolute()
    if not (manual_dir / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST's four files in MNIST_JAX_MANUAL_DIR")

    def read(name: str, offset: int) -> np.ndarray:
        with gzip.open(manual_dir / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    train_image = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    train_label = read("train-labels-idx1-ubyte.gz", 8)
    dataset = load_dataset(mnist_config)
    np.testing.assert_array_equal(dataset.splits["validation"].image, train_image[:5000])
    np.testing.assert_array_equal(dataset.splits["validation"].label, train_label[:5000])
    np.testing.assert_array_equal(dataset.splits["train"].image, train_image[5000:])
    np.testing.assert_array_equal(dataset.splits["train"].label, train_label[5000:])
    test_image = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    np.testing.assert_array_equal(dataset.splits["test"].image, test_image)
    np.testing.assert_array_equal(
        dataset.splits["test"].label, read("t10k-labels-idx1-ubyte.gz", 8)
    )


def test_what_a_killed_process_left_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    left = tmp_path / "data" / "mnist" / "incomplete.ABCDEF_3.0.1"
    left.mkdir(parents=True)
    (left / "half").touch()
    builder = tfds_preparation._create_builder("mnist", tmp_path / "data")
    monkeypatch.setattr(builder, "download_and_prepare", lambda **_: None)
    tfds_preparation._prepare(builder, tmp_path / "data", None)
    assert [path.name for path in (tmp_path / "data" / "mnist").iterdir()] == []
    assert [*(tmp_path / "temporary").iterdir()] == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
        (ConnectionResetError(errno.ECONNRESET, "reset"), DatasetUnavailableError),
        # As `requests.ConnectionError`, also an OSError, when the network is lost.
        (OSError("Connection aborted."), DatasetUnavailableError),
    ],
)
def test_a_full_disk_is_no_lost_network(error, kind, tmp_path, monkeypatch):
    def fail(**_: object) -> None:
        raise error

    builder = tfds_preparation._create_builder("mnist", tmp_path)
    monkeypatch.setattr(builder, "download_and_prepare", fail)
    with pytest.raises(UserError) as raised:
        tfds_preparation._prepare(builder, tmp_path, None)
    assert raised.type is kind


@pytest.mark.parametrize(
    ("name", "file_format", "num_classes"),
    [
        ("mnist", "tfrecord", 10),
        ("mnist", "array_record", 10),
        ("fashion_mnist", "tfrecord", 10),
        ("kmnist", "tfrecord", 10),
        ("emnist/balanced", "tfrecord", 47),
        ("cifar10", "tfrecord", 10),
    ],
)
def test_a_prepared_dataset_is_read_in_the_order_of_its_files(
    name, file_format, num_classes, tmp_path
):
    examples = prepare_small(name, tmp_path, file_format)
    dataset = tfds_preparation.load(name, tmp_path, tmp_path / "nothing")
    assert (dataset.name, len(dataset.class_names)) == (name, num_classes)
    assert dataset.sizes == {
        "train": 11 * num_classes,
        "validation": num_classes,
        "test": 2 * num_classes,
    }
    image = np.concatenate([dataset.splits["validation"].image, dataset.splits["train"].image])
    expected = np.array([e["image"].squeeze() for e in examples])
    if name.startswith("emnist"):  # Stored with rows and columns exchanged.
        expected = expected.swapaxes(1, 2)
    np.testing.assert_array_equal(image, expected)
    label = np.concatenate([dataset.splits["validation"].label, dataset.splits["train"].label])
    np.testing.assert_array_equal(label, [e["label"] for e in examples])


def test_a_damaged_preparation_is_an_error_that_names_its_folder(tmp_path):
    prepare_small("mnist", tmp_path)
    (records,) = tmp_path.rglob("mnist-train.tfrecord*")
    records.write_bytes(records.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"mnist/3\.0\.1: .* delete that folder"):
        tfds_preparation.load("mnist", tmp_path, tmp_path / "nothing")


def test_archives_of_another_content_are_refused(tmp_path):
    for part in ("t10k", "train"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.zeros((2, 28, 28), np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.zeros(2, np.uint8))
    with pytest.raises(
        UserError, match=r"t10k-images-idx3-ubyte\.gz: .* SHA-256 .* expected 8d42"
    ):
        tfds_preparation.load("mnist", tmp_path / "data", tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.mnist
@pytest.mark.parametrize(
    ("name", "folder", "class_name"),
    [
        ("mnist", os.environ.get("MNIST_JAX_MANUAL_DIR", "/nothing"), "0"),
        # Of Debian's package dataset-fashion-mnist.
        ("fashion_mnist", "/usr/share/datasets/fashion-mnist", "T-shirt/top"),
    ],
)
def test_archives_that_were_packed_anew_are_known_by_their_content(
    name, folder, class_name, tmp_path
):
    archives = list(Path(folder).glob("*-ubyte.gz"))
    if len(archives) != 4:
        pytest.skip(f"needs the files of {name}")
    for path in archives:
        content = gzip.decompress(path.read_bytes())
        (tmp_path / path.name).write_bytes(gzip.compress(content, compresslevel=1))
    dataset = tfds_preparation.load(name, tmp_path / "data", tmp_path)
    assert (dataset.name, dataset.class_names[0]) == (name, class_name)
    assert dataset.sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}


@pytest.mark.mnist
def test_the_digest_of_mnist_is_the_one_of_its_archives(mnist_config):
    assert load_dataset(mnist_config).digest == tfds_preparation._DIGESTS["mnist"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "did you mean mnist"),
        ("mnist_5", "did you mean mnist_5k"),
        ("emnist/balansed", "did you mean emnist/balanced"),
        ("mnist/plain", "did you mean mnist"),
        ("qqqqqq", "see tensorflow.org/datasets/catalog"),
        ("tf_flowers", "the images of 'tf_flowers' differ in size; choose"),
        ("smallnorb", "no image with one class label"),
        ("ag_news_subset", "no image"),
    ],
)
def test_unknown_and_unsuitable_datasets_are_refused_before_any_download(
    name, message, tmp_path
):
    with pytest.raises(UserError, match=message):
        tfds_preparation.load(name, tmp_path / "data", tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        problem = tfds_preparation.find_network_problem(f"http://{host}/file", timeout=0.2)
    assert problem.startswith(f"{host}: ")


def test_a_refused_connection_is_reported_by_its_cause():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    problem = tfds_preparation.find_network_problem(f"http://{host}/file")
    assert problem == f"{host}: Connection refused"

"""A user's own dataset: .npz, .npy files, IDX files, a folder of images."""

import concurrent.futures
import dataclasses
import errno
import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_jax import restoring
from mnist_jax.configs import default
from mnist_jax.data import own_files
from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.data.load import load_dataset
from mnist_jax.data.rows import Rows
from mnist_jax.runtime.errors import UserError
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import ROOT
from tests.data.small_datasets import write_idx
from tests.data.test_images import png_header
from tests.workdirs import contents

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (24, 8, 6), np.uint8)
COLOUR = RNG.integers(0, 256, (24, 8, 6, 3), np.uint8)
LABEL = np.arange(24) % 2
GREY_PNG = io.BytesIO()
Image.fromarray(GREY[0]).save(GREY_PNG, "png")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def load(path: Path, data_dir: Path | None = None, **fields: Any) -> Dataset:
    """With a folder for decoded images, they are decoded into it."""
    config = default.get_config()
    config.update(data_dir=str(data_dir or "/nothing"), **fields)
    config.examples = "auto" if data_dir is None else "host"
    return own_files.load(path, config)


def write_npz(path: Path, **arrays: Any) -> Path:
    good = {"x_train": COLOUR, "y_train": LABEL, "x_test": COLOUR[:4], "y_test": LABEL[:4]}
    chosen = {name: array for name, array in (good | arrays).items() if array is not None}
    np.savez(path, **chosen)
    return path


def write_npy(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    good = {"x_train": COLOUR, "y_train": LABEL, "x_test": COLOUR[:4], "y_test": LABEL[:4]}
    for name, array in (good | arrays).items():
        if array is not None:
            np.save(folder / name, array)
    return folder


def write_idx_folder(folder: Path) -> Path:
    folder.mkdir()
    write_idx(folder / f"{IDX[0]}.gz", GREY)
    write_idx(folder / f"{IDX[1]}.gz", LABEL.astype(np.uint8))
    return folder


def write_images(folder: Path, images: np.ndarray = GREY, split: str = "train") -> Path:
    for i, image in enumerate(images):
        path = folder / split / ("cat", "dog")[LABEL[i]] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_an_npz_file_in_keras_form(tmp_path):
    path = write_npz(tmp_path / "own.npz", y_train=LABEL[:, np.newaxis], class_names=["a", "b"])
    dataset = load(path)
    assert (dataset.name, dataset.class_names) == (str(path), ("a", "b"))
    assert dataset.sizes == {"train": 22, "validation": 2, "test": 4}
    np.testing.assert_array_equal(dataset.examples.image[:22], COLOUR[2:])
    np.testing.assert_array_equal(dataset.splits["validation"].label, LABEL[:2])
    np.testing.assert_array_equal(dataset.splits["test"].image, COLOUR[:4])
    write_npz(path, x_val=COLOUR[:5], y_val=LABEL[:5])
    dataset = load(path)
    assert dataset.sizes == {"train": 24, "validation": 5, "test": 4}
    assert dataset.class_names == ("0", "1")


def test_npy_files_are_what_the_same_arrays_are_in_an_npz_file(tmp_path):
    for arrays in (
        {},
        {"class_names": np.array(["a", "b"])},
        {"x_val": COLOUR[:5], "y_val": LABEL[:5]},
        {"x_validation": COLOUR[:5], "y_validation": LABEL[:5]},
        {"x_test": None, "y_test": None},
        {"y_train": np.linspace(0, 1, 24), "y_test": np.zeros(4)},
        {"x_train": COLOUR / np.float32(255), "x_test": COLOUR[:4] / np.float32(255)},
    ):
        expected = load(write_npz(tmp_path / "own.npz", **arrays))
        dataset = load(write_npy(tmp_path / "own", **arrays))
        assert isinstance(dataset.examples.image, Rows)
        assert (dataset.class_names, dataset.sizes) == (expected.class_names, expected.sizes)
        assert dataset.digest == expected.digest
        for array, expected_array in zip(dataset.examples, expected.examples, strict=True):
            np.testing.assert_array_equal(array, expected_array, strict=True)
        shutil.rmtree(tmp_path / "own")


def test_classes_are_numbered_where_labels_may_be_classes(tmp_path):
    for label, expected in (
        (np.arange(24) % 4, ("0", "1", "2", "3")),
        (LABEL * 3, ()),
        (LABEL + 1, ()),
        (LABEL[:, np.newaxis] == 1, ("0", "1")),
        (LABEL / 1, ()),
        (np.stack([LABEL, LABEL], axis=1), ()),
    ):
        path = write_npz(tmp_path / "own.npz", y_train=label, y_test=label[:4])
        assert load(path).class_names == expected
    # Counts, as an empty `class_names` says.
    path = write_npz(tmp_path / "own.npz", class_names=np.array([], str))
    assert load(path).class_names == ()


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_idx_files(packed, tmp_path):
    folder = write_idx_folder(tmp_path / "own")
    for path in () if packed else list(folder.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    dataset = load(folder)
    assert dataset.sizes == {"train": 20, "validation": 2, "test": 2}
    assert (dataset.input.shape, dataset.class_names) == ((8, 6), ("0", "1"))
    write_idx(folder / "t10k-images-idx3-ubyte.gz", GREY[:3])
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", LABEL[:3].astype(np.uint8))
    dataset = load(folder)
    assert dataset.sizes == {"train": 22, "validation": 2, "test": 3}
    np.testing.assert_array_equal(dataset.splits["train"].image, GREY[2:])
    np.testing.assert_array_equal(dataset.splits["test"].label, LABEL[:3])


def test_a_folder_of_images(tmp_path):
    folder = write_images(tmp_path / "own")
    write_images(folder, GREY[:4], "val")
    for hidden in ("__MACOSX", "train/.thumbs", "train/@eaDir", "train/dog/.git"):
        (folder / hidden).mkdir()
        (folder / hidden / "00.png").write_text("no image")
    (folder / "train" / "dog" / "._00.png").write_text("of macOS")
    dataset = load(folder)
    assert dataset.warnings == ()
    assert dataset.class_names == ("cat", "dog")
    assert dataset.sizes == {"train": 22, "validation": 4, "test": 2}
    assert (dataset.splits["test"].label.tolist(), dataset.input.shape) == ([0, 1], (8, 6))
    cat = dataset.splits["validation"].image[:2]
    np.testing.assert_array_equal(cat, GREY[:4:2])
    Image.fromarray(COLOUR[1]).save(folder / "val" / "dog" / "01.png")
    dataset = load(folder)  # Grey ones among those in colour.
    np.testing.assert_array_equal(dataset.splits["validation"].image[2], COLOUR[1])
    np.testing.assert_array_equal(dataset.splits["validation"].image[0, :, :, 2], GREY[0])


def test_files_that_are_not_used_are_counted(tmp_path):
    folder = write_images(tmp_path / "own")
    (folder / "extra" / "deep").mkdir(parents=True)
    (folder / "train" / "dog" / "more").mkdir()
    unused = ("README.md", "train/a.csv", "train/dog/b.TXT", "train/cat/c.txt", "extra/deep/d")
    for name in (*unused, "train/dog/more/e.png"):
        (folder / name).write_text("no image")
    (warning,) = load(folder).warnings
    start = f"dataset: {folder}: skipped 6 files: 2 .txt, "
    assert warning.startswith(start)
    kinds = {"1 .md", "1 .csv", "1 d", "1 .png"}
    assert set(warning.removeprefix(start).split(", ")) == kinds
    path = write_npz(tmp_path / "own.npz", z_train=LABEL)
    assert load(path).warnings == (f"dataset: {path}: skipped 1 files: 1 z_train",)
    folder = write_npy(tmp_path / "arrays")
    (folder / "labels.txt").touch()
    assert load(folder).warnings == (f"dataset: {folder}: skipped 1 files: 1 .txt",)
    folder = write_idx_folder(tmp_path / "idx")
    (folder / "README.md").touch()
    assert load(folder).warnings == (f"dataset: {folder}: skipped 1 files: 1 .md",)


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev", "eval"])
def test_the_usual_names_of_splits(name, tmp_path):
    folder = write_images(tmp_path / "own", split="Training")
    write_images(write_images(folder, GREY[:3], name), GREY[:5], "testing")
    assert load(folder).sizes == {"train": 24, "validation": 3, "test": 5}
    arrays = {f"x_{name.lower()}": COLOUR[:3], f"y_{name.lower()}": LABEL[:3]}
    path = write_npz(tmp_path / "own.npz", **arrays)
    assert load(path).sizes == {"train": 24, "validation": 3, "test": 4}


def test_a_range_that_cannot_be_meant_is_a_warning():
    for image, values in (
        (COLOUR % 2, "uint8 from 0 to 1"),
        (GREY % 17, "uint8 from 0 to 16"),
        (GREY.astype(np.float32), "float32 from 0 to 255"),
        (GREY.astype(np.uint16) * 257, "uint16 from 0 to 65535"),
    ):
        (warning,) = Dataset.from_splits("own", "ab", {"train": Split(image, LABEL)}).warnings
        assert warning.startswith(f"dataset: own: images are {values}, but models divide")
    for image in (COLOUR, GREY // 3, GREY / np.float32(255), GREY.reshape(24, -1) % 2):
        assert Dataset.from_splits("own", "ab", {"train": Split(image, LABEL)}).warnings == ()


def test_images_of_a_folder_are_resized_to_image_size(tmp_path):
    folder = write_images(tmp_path / "own")
    other = folder / "train" / "cat" / "04.png"
    Image.fromarray(GREY[4].T).save(other)
    config = default.get_config()
    config.dataset = str(folder)
    with pytest.raises(UserError) as error:
        load_dataset(config)
    first = folder / "train" / "cat" / "00.png"
    expected = (
        f"{other} is 6 high and 8 wide, but {first} is 8 high and 6 wide; set config.image_size"
    )
    assert str(error.value) == f"dataset: {expected}"
    config.image_size = (5, 7)
    assert load_dataset(config).input.shape == (5, 7)


def check_decoded(dataset: Dataset, expected: Dataset) -> None:
    assert isinstance(dataset.examples.image, Rows)
    assert isinstance(expected.examples.image, np.ndarray)
    for array, expected_array in zip(dataset.examples, expected.examples, strict=True):
        np.testing.assert_array_equal(array, expected_array, strict=True)
    assert dataclasses.replace(dataset, examples=expected.examples) == expected


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder of images of all of Pillow's modes."""
    folder = write_images(write_images(tmp_path / "own"), GREY[:4], "val")
    for i, mode in enumerate(("RGB", "RGBA", "P", "1", "LA")):  # RGBA: opaque.
        path = folder / "train" / "dog" / f"{mode}.png"
        Image.fromarray(COLOUR[i]).convert(mode).save(path)
    return folder


def test_images_are_decoded_to_the_disk_once(mixed, tmp_path, capsys, monkeypatch):
    data_dir = tmp_path / "data"
    expected = load(mixed)
    assert expected.input.shape == (8, 6, 3)
    check_decoded(load(mixed, data_dir), expected)
    (stored,) = data_dir.rglob("*.npy")
    line = f"Decoding 33 images of {mixed} into {stored}, once ...\n"
    assert capsys.readouterr().err == line
    monkeypatch.delattr(Image, "open")
    check_decoded(load(mixed, data_dir), expected)
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    (mixed / "train" / "dog" / "P.png").touch()
    check_decoded(load(mixed, data_dir), expected)
    assert "once ..." in capsys.readouterr().err


def test_images_that_take_much_memory_are_decoded_to_the_disk(tmp_path, monkeypatch):
    config = default.get_config()
    config.dataset = str(write_images(tmp_path / "own"))
    config.data_dir = str(tmp_path / "data")
    monkeypatch.setattr("mnist_jax.runtime.memory.device_limit", lambda: 4 * GREY.nbytes)
    expected = load_dataset(config)
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr("mnist_jax.runtime.memory.device_limit", lambda: 4 * GREY.nbytes - 4)
    check_decoded(load_dataset(config), expected)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "data")
    config.examples = "host"
    check_decoded(load_dataset(config), expected)


def test_two_decode_at_once(mixed, tmp_path, capsys):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        datasets = list(pool.map(load, [mixed] * 2, [tmp_path / "data"] * 2))
    for dataset in datasets:
        check_decoded(dataset, load(mixed))
    assert capsys.readouterr().err.count("once ...") == 1


def test_decoding_that_is_killed_leaves_nothing_that_is_read(mixed, tmp_path):
    program = """
import os, signal, sys
from pathlib import Path
from mnist_jax.configs import default
from mnist_jax.data import images, own_files
open_image = images.open_image
def open_some(path):
    if path.name == "P.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return open_image(path)
images.open_image = open_some
config = default.get_config()
config.update(examples="host", data_dir=sys.argv[2])
own_files.load(Path(sys.argv[1]), config)
"""
    data_dir = tmp_path / "data"
    command = [sys.executable, "-c", program, mixed, data_dir]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert len(list(data_dir.rglob(".aside-*"))) == 1
    assert list(data_dir.rglob("*.npy")) == []
    check_decoded(load(mixed, data_dir), load(mixed))
    assert list(data_dir.rglob(".aside-*")) == []


def test_what_goes_wrong_with_the_decoded_images_is_one_line(mixed, tmp_path, monkeypatch):
    data_dir = tmp_path / "data"
    write_text("P.png")(mixed / "train" / "dog")
    with pytest.raises(UserError, match=r"dog/P\.png: cannot identify image"):
        load(mixed, data_dir)
    (mixed / "train" / "dog" / "P.png").unlink()
    assert list(data_dir.rglob("*.npy")) == list(data_dir.rglob(".aside-*")) == []

    def fill_disk(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fill_disk)
    with pytest.raises(
        UserError, match=rf"^data_dir: {data_dir}/\S+: No space left on device; "
    ):
        load(mixed, data_dir)
    monkeypatch.undo()
    load(mixed, data_dir)
    (stored,) = data_dir.rglob("*.npy")
    os.truncate(stored, 1000)
    with pytest.raises(UserError, match=rf"^{stored}: mmap length .*; delete it"):
        load(mixed, data_dir)


def break_npz(**arrays: Any) -> Callable[[Path], Path]:
    return lambda folder: write_npz(folder / "own.npz", **arrays)


def break_npy(name: str = "", **arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        own = write_npy(folder / "own", **arrays)
        if name:
            (own / name).write_text("nothing of the kind")
        return own

    return write


def write_text(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text("nothing of the kind")
        return folder / name

    return write


def break_idx(name: str, content: bytes | None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        own = write_idx_folder(folder / "own")
        (own / name).unlink() if content is None else (own / name).write_bytes(content)
        return own

    return write


def break_images(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        own = write_images(folder / "own")
        path = own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return own

    return write


def make_folders(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in ("", *names):
            (folder / "own" / name).mkdir(parents=True)
        return folder / "own"

    return make


def nest_a_class(folder: Path) -> Path:
    own = write_images(write_images(folder / "own"), GREY[:4], "test")
    (own / "train" / "dog").rename(own / "dogs")
    (own / "train" / "dog").mkdir()
    (own / "dogs").rename(own / "train" / "dog" / "all")
    return own


def write_film(folder: Path) -> Path:
    own = write_images(folder / "own")
    frames = [Image.fromarray(image) for image in GREY[:2]]
    frames[0].save(own / "train" / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    return own


def write_huge_image(folder: Path) -> Path:
    own = write_images(folder / "own")
    (own / "train" / "cat" / "huge.png").write_bytes(png_header(12_000, 12_000))
    return own


def write_deep_image(folder: Path) -> Path:
    own = write_images(folder / "own")
    Image.fromarray(np.zeros((8, 6), np.uint16)).save(own / "train" / "cat" / "00.png")
    return own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (break_npz(y_train=LABEL + 10**12), "own.npz: train: labels are from 1000000000000 to"),
        (break_npz(x_test=COLOUR[:4] / 255), "own.npz: test: images are float64(4, 8, 6, 3), "),
        (break_npz(x_test=COLOUR[:3]), "own.npz: test: labels are int64(4,), expected"),
        (break_npz(x_test=COLOUR[:0], y_test=LABEL[:0]), "own.npz: test: no images"),
        (break_npz(x_test=GREY[:4]), "own.npz: images of different shapes, types or places: "),
        (
            break_npz(x_train=None),
            "own.npz: no readable array x_train: 'x_train is not",
        ),
        (
            break_npz(y_test=None),
            "own.npz: no readable array y_test: 'y_test is not",
        ),
        (
            break_npz(y_train=np.array([{}] * 24)),
            "own.npz: no readable array y_train: Object",
        ),
        (write_text("own.npz"), "own.npz: File is not a zip file"),
        (
            break_npy(x_train=COLOUR / 1),
            "own: train: images are float64(24, 8, 6, 3), expected",
        ),
        (
            break_npy(x_train=np.array([{}] * 24)),
            "own: no readable array x_train: Array can't be",
        ),
        (break_npy(x_test=COLOUR[:3]), "own: test: labels are int64(4,), expected"),
        (
            break_npy(y_train=np.array([{}] * 24)),
            "own: no readable array y_train: Ob",
        ),
        (break_npy(y_test=None), "own: no readable array y_test: No such file"),
        (break_npy("x_test.npy"), "own: no readable array x_test: the magic string"),
        (break_npy("y_test.npy"), "own: no readable array y_test: the magic string"),
        (
            break_npy(x_val=COLOUR, y_val=LABEL, x_validation=COLOUR, y_validation=LABEL),
            "own: contains a split 'validation'; use train, val and test, each once",
        ),
        (break_npz(x_new=COLOUR, y_new=LABEL), "own.npz: contains a split 'new'; use train, v"),
        (
            break_npz(class_names=["a", "b", "c"]),
            "own.npz: class 'c' has no training examples",
        ),
        (
            break_npz(x_train=COLOUR.transpose(0, 3, 1, 2)),
            "own.npz: train: images are uint8(24, 3, 8, 6), expected the channels last: ",
        ),
        (lambda folder: folder / "nothing.npz", "nothing.npz: No such file or directory"),
        (break_idx(f"{IDX[0]}.gz", b"no gzip"), f"{IDX[0]}.gz: Not a gzipped file"),
        (break_idx(IDX[0], b"no IDX"), f"{IDX[0]}: not an IDX file of bytes"),
        (
            break_idx(IDX[0], b"\0\0\x08\1\0\0\0\2\0"),
            f"{IDX[0]}: cannot reshape array of size 1",
        ),
        (break_idx(f"{IDX[1]}.gz", None), f"{IDX[1]}.gz: No such file or directory"),
        (make_folders(), "own: contains none of train/CLASS/, x_train.npy or train-images"),
        (make_folders("train"), "own: no images (.apng, "),
        (make_folders("train/cat", "Train"), "own: Train/ and train/ are the same split"),
        (make_folders("train/cat"), "own/train/cat contains no image that can be read"),
        (nest_a_class, "own/train/dog contains no image that can be read"),
        (break_images("train/a\nb/x.png", b""), "own: class 'a\\nb': rename it"),
        (break_images("train/a\udcff/x.png", b""), "own: class 'a\\udcff': rename it"),
        (write_film, "train/cat/a.gif: contains several images"),
        (write_huge_image, "train/cat/huge.png: too many pixels"),
        (break_images("train/cat/x.png", b"no PNG"), "train/cat/x.png: cannot identify image"),
        (break_images("test/cat/x.txt", b""), "own/test/cat contains no image"),
        (
            break_images("test/owl/x.png", GREY_PNG.getvalue()),
            "class 'owl' has no training",
        ),
        (write_deep_image, "train/cat/00.png: has 16 or 32 bits for each channel"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(UserError) as error:
        load(path)
    text = str(error.value)
    assert text.startswith(f"dataset: {tmp_path}/")
    assert message in text
    assert "\n" not in text


def test_image_size_is_refused_for_other_files(tmp_path, fake_config):
    fake_config.update(image_size=(5, 7), dataset=str(write_npz(tmp_path / "own.npz")))
    with pytest.raises(UserError, match="not a folder of images"):
        load_dataset(fake_config)


def test_a_run_on_own_data_is_resumed_and_evaluated_until_they_change(
    fake_config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = np.array(["cat", "dog"])
    write_npz(Path("own.npz"), class_names=names)
    fake_config.update(dataset="own.npz", batch_size=8, num_train_steps=20)
    train_and_evaluate(fake_config, "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = restoring.restore(tmp_path / "run")
    assert list(model.manifest.class_names) == ["cat", "dog"]
    assert restoring.load_run_dataset(model).input.shape == (8, 6, 3)
    (tmp_path / "own.npz").rename("moved.npz")
    with pytest.raises(UserError, match=r"own\.npz: No such file .* where it is now"):
        restoring.load_run_dataset(model)
    assert restoring.load_run_dataset(model, "moved.npz").input.shape == (8, 6, 3)
    fake_config.update(dataset="moved.npz", num_train_steps=40)
    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    assert train_and_evaluate(fake_config, tmp_path / "resumed").step == 40
    fake_config.dataset = "../own.npz"
    write_npz(tmp_path / "own.npz", class_names=names, y_train=1 - LABEL)
    before = contents(tmp_path)
    message = r"own\.npz: its examples are not those that the run began with"
    with pytest.raises(UserError, match=message):
        train_and_evaluate(fake_config, tmp_path / "run")
    with pytest.raises(UserError, match=message):
        restoring.load_run_dataset(model)
    assert contents(tmp_path) == before

"""Examples in files: what is read are the rows that an array in memory would have."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_jax.data import datasets
from mnist_jax.data.datasets import SPLITS, Dataset, Split
from mnist_jax.data.rows import Rows
from mnist_jax.runtime.errors import UserError
from tests.conftest import ROOT

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 2**32, (60, 3, 2), np.uint32)
LABEL = np.arange(60) % 3


def save(path: Path, array: np.ndarray = IMAGE) -> Rows:
    np.save(path, array)
    return Rows.of(np.load(path, mmap_mode="r"))


def create(image: np.ndarray | Rows) -> Dataset:
    return Dataset.from_splits("name", "abc", {"train": Split(image, LABEL)})


def check_equal(rows: Rows, expected: np.ndarray) -> None:
    assert isinstance(rows, Rows)
    assert (len(rows), rows.ndim, rows.nbytes) == (
        len(expected),
        expected.ndim,
        expected.nbytes,
    )
    assert (rows.shape, rows.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(np.asarray(rows), expected, strict=True)
    for key in (slice(3, 9), slice(None, None, 7), slice(None, None, -1), slice(5, 5)):
        np.testing.assert_array_equal(np.asarray(rows[key]), expected[key], strict=True)
    indices = RNG.integers(0, len(expected), 100)
    for key in (indices, np.sort(indices), indices[:0], np.array([-1, 0, 0, 1], np.int32)):
        array = rows[key]
        np.testing.assert_array_equal(array, expected[key], strict=True)
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.parametrize("dtype", ["u1", "f2", "i4", "f4"])
@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 2, 3), (60, 4, 4, 2)])
def test_rows_are_those_of_the_array(shape, dtype, tmp_path):
    array = RNG.integers(0, 100, shape).astype(dtype)
    check_equal(save(tmp_path / "x.npy", array), array)


@pytest.mark.parametrize("given", ["train", "test train", "validation train test"])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_the_splits_of_files_are_those_of_arrays(given, is_sorted, tmp_path):
    label = np.sort(LABEL) if is_sorted else LABEL
    arrays, files = {}, {}
    for i, split in enumerate(given.split()):
        image = (IMAGE + np.uint32(i))[..., np.newaxis]  # The axis is dropped.
        arrays[split] = Split(image, label)
        files[split] = Split(save(tmp_path / f"{split}.npy", image), label)
    expected = Dataset.from_splits("name", "abc", arrays)
    dataset = Dataset.from_splits("name", "abc", files)
    assert (dataset.sizes, dataset.digest) == (expected.sizes, expected.digest)
    assert dataset.input == expected.input
    check_equal(dataset.examples.image, expected.examples.image)
    for split in expected.splits:
        check_equal(dataset.splits[split].image, expected.splits[split].image)
        np.testing.assert_array_equal(dataset.splits[split].label, expected.splits[split].label)


def test_a_read_only_memory_map_stays_in_its_file(tmp_path):
    save(tmp_path / "x.npy")
    (tmp_path / "raw").write_bytes(bytes(24) + IMAGE.tobytes())
    for image in (
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        np.memmap(tmp_path / "raw", np.uint32, "r", offset=24, shape=(60, 3, 2)),
    ):
        check_equal(create(image).examples.image, create(np.array(image)).examples.image)


def test_other_memory_maps_and_views_of_them_are_arrays(tmp_path):
    save(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.asfortranarray(IMAGE))
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[0] = 0
    read_only = np.load(tmp_path / "x.npy", mmap_mode="r")
    views = [read_only[:], read_only[::-1], read_only.transpose(0, 2, 1)]
    for image in (changed, *views, np.load(tmp_path / "y.npy", mmap_mode="r")):
        examples = create(image).examples
        assert isinstance(examples.image, np.ndarray)
        np.testing.assert_array_equal(examples.image, create(np.array(image)).examples.image)


def test_arrays_and_files_are_not_mixed(tmp_path):
    splits = {"train": Split(save(tmp_path / "x.npy"), LABEL), "test": Split(IMAGE, LABEL)}
    with pytest.raises(ValueError, match="images of different shapes, types or places"):
        Dataset.from_splits("name", "abc", splits)


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace(path: Path) -> None:
    np.save(path.with_name("other.npy"), IMAGE)
    path.with_name("other.npy").replace(path)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shrink, "has changed since it was opened"),
        (replace, "has changed since it was opened"),
        (Path.unlink, "No such file or directory"),
        (become_a_pipe, "Not a regular file"),
    ],
)
def test_a_file_that_changes_is_an_error(harm, message, tmp_path):
    dataset = create(save(tmp_path / "x.npy"))
    harm(tmp_path / "x.npy")
    with pytest.raises(UserError) as error:
        dataset.examples.image[np.arange(1)]
    advice = "restore it, then run the same command again"
    assert str(error.value) == f"dataset: {tmp_path}/x.npy: {message}; {advice}"


def test_a_file_that_is_shortened_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    rows, fstat = save(tmp_path / "x.npy"), os.fstat

    def shrink_after(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        if status.st_size == (tmp_path / "x.npy").stat().st_size:
            os.truncate(tmp_path / "x.npy", 0)
        return status

    monkeypatch.setattr(os, "fstat", shrink_after)
    with pytest.raises(UserError, match=r"x\.npy: has "):
        rows[np.arange(1)]


def test_the_digest_covers_blocks_of_large_files_and_all_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_SAMPLE", 3 * 2**20)
    image = RNG.integers(0, 256, (64, 2**16), np.uint8)  # 4 MB in each split.

    def digest(image: np.ndarray, last: int = 0) -> str:
        label = np.array([0] * 63 + [last])
        rows = save(tmp_path / "x.npy", image)
        splits = {split: Split(rows, label) for split in SPLITS}
        from_files = Dataset.from_splits("name", "ab", splits).digest
        splits = {split: Split(image, label) for split in SPLITS}
        assert Dataset.from_splits("name", "ab", splits).digest == from_files
        return from_files

    digests = {digest(image), digest(image, last=1)}
    for row in (0, 15, 16, 63):
        changed = image.copy()
        changed[row] += 1
        digests.add(digest(changed))
    assert len(digests) == 2 + 2  # It covers every fourth block of 16 rows: 0 and 15.


def test_files_may_be_larger_than_the_memory_of_the_process(tmp_path):
    """12 GB that take no space on the disk."""
    num_rows, size = 10**6, 64 * 64 * 3
    label = np.zeros(num_rows)
    with (tmp_path / "x_train.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_rows, 64, 64, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.truncate(start + num_rows * size)
        for row in (0, 123_456, num_rows - 1):
            label[row] = 1
            file.seek(start + row * size)
            file.write(b"\1" * size)
    np.save(tmp_path / "y_train.npy", label)
    program = """
import sys
from pathlib import Path
import numpy as np
from mnist_jax.configs import default
from mnist_jax.data import own_files
folder = Path(sys.argv[1])
dataset = own_files.load(folder, default.get_config())
image, label = dataset.examples
chosen = np.random.default_rng(0).integers(0, len(image), 10_000)
chosen[:3] = np.flatnonzero(label)
assert (image[chosen].all(axis=(1, 2, 3)) == label[chosen]).all()
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
assert int(peak) < 600_000, peak
"""
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, cwd=ROOT)

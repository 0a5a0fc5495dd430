"""The cache of decoded arrays."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from mnist_jax.configs import default
from mnist_jax.data import tfds_preparation, tfds_source
from mnist_jax.data.datasets import Dataset
from mnist_jax.runtime.errors import CommandError
from tests.conftest import ROOT
from tests.data.small_datasets import prepare_small


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Dataset]:
    """A folder in which a small mnist is prepared, and its dataset."""
    data_dir = tmp_path_factory.mktemp("prepared")
    prepare_small("mnist", data_dir)
    return data_dir, tfds_preparation.load("mnist", data_dir, data_dir / "nothing")


@pytest.fixture
def config(prepared, monkeypatch) -> ConfigDict:
    config = default.get_config()
    config.data_dir = str(prepared[0])
    # A process takes seconds; `test_the_process_is_left_as_it_was` starts one.
    monkeypatch.setattr(tfds_source, "_prepare", lambda name, config: prepared[1])
    yield config
    for path in (prepared[0] / "mnist").iterdir():
        if path.is_file() or path.is_symlink():
            path.unlink()


def find_cache(config: ConfigDict) -> Path:
    (cache,) = (path for path in Path(config.data_dir, "mnist").iterdir() if not path.is_dir())
    return cache


def assert_equal(dataset: Dataset, expected: Dataset) -> None:
    assert (dataset.name, dataset.class_names) == (expected.name, expected.class_names)
    assert dataset.sizes == expected.sizes
    for array, expected_array in zip(dataset.examples, expected.examples, strict=True):
        np.testing.assert_array_equal(array, expected_array, strict=True)
        assert array.flags.c_contiguous


def test_the_second_start_reads_the_cache(config, prepared, monkeypatch, capsys):
    assert_equal(tfds_source.load("mnist", config), prepared[1])
    monkeypatch.delattr(tfds_source, "_prepare")
    assert_equal(tfds_source.load("mnist", config), prepared[1])
    assert capsys.readouterr().err == ""


def test_the_process_is_left_as_it_was(config):
    program = """
import os, sys
from mnist_jax.configs import default
from mnist_jax.data.load import load_dataset
config, before = default.get_config(), dict(os.environ)
config.data_dir = sys.argv[1]
assert load_dataset(config).name == 'mnist'
assert dict(os.environ) == before
assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)
"""
    command = [sys.executable, "-c", program, config.data_dir]
    first = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    find_cache(config)
    second = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (first.stdout, first.stderr, second.stderr) == (b"", b"", b"")


def test_a_preparation_that_is_killed_while_it_writes_is_one_line(tmp_path, monkeypatch):
    def run(command, stdout, **options) -> subprocess.CompletedProcess:
        stdout.write(b"PK\x03\x04\xff of a file")
        return subprocess.CompletedProcess(command, -9)

    monkeypatch.setattr(subprocess, "run", run)
    config = default.get_config()
    config.data_dir = str(tmp_path)
    message = "^dataset: mnist: its preparation ended with exit code -9$"
    with pytest.raises(CommandError, match=message):
        tfds_source.load("mnist", config)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, empty])
def test_a_damaged_cache_is_rebuilt(damage, config, prepared, capsys):
    tfds_source.load("mnist", config)
    cache = find_cache(config)
    damage(cache)
    assert_equal(tfds_source.load("mnist", config), prepared[1])
    assert f"WARNING: {cache}: damaged (" in capsys.readouterr().err
    assert_equal(tfds_source.load("mnist", config), prepared[1])
    assert capsys.readouterr().err == ""


def test_a_cache_of_another_version_is_not_read(config, prepared, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(tfds_source, "_CACHE_VERSION", tfds_source._CACHE_VERSION - 1)
        tfds_source.load("mnist", config)
        find_cache(config).write_bytes(b"of an older version")
    assert_equal(tfds_source.load("mnist", config), prepared[1])
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_a_warning(config, prepared, monkeypatch, capsys):
    def fill_disk(file, **arrays):
        file.write(b"PK")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", fill_disk)
    assert_equal(tfds_source.load("mnist", config), prepared[1])
    assert "can't be written (No space left on device)" in capsys.readouterr().err
    assert [path.name for path in Path(config.data_dir, "mnist").iterdir()] == ["3.0.1"]


def test_the_cache_is_readable_by_others(config):
    tfds_source.load("mnist", config)
    umask = os.umask(0)
    os.umask(umask)
    assert find_cache(config).stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_a_pipe_or_a_link_is_no_cache_and_is_not_replaced(make, config, prepared, capsys):
    tfds_source.load("mnist", config)
    cache = find_cache(config)
    cache.unlink()
    make(cache)
    assert_equal(tfds_source.load("mnist", config), prepared[1])
    assert "can't be written (A link, or not a regular file)" in capsys.readouterr().err
    assert not cache.is_file()
    assert not (cache.parent / "elsewhere").exists()
    cache.unlink()


def test_folders_default_to_the_environment(monkeypatch, tmp_path):
    config = default.get_config()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("MNIST_JAX_MANUAL_DIR", raising=False)
    assert tfds_source.data_dir(config) == tmp_path / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", "/data")
    assert tfds_source.data_dir(config) == Path("/data")
    assert tfds_source.manual_dir(config) == Path("/data/downloads/manual")
    monkeypatch.setenv("MNIST_JAX_MANUAL_DIR", "/archives")
    assert tfds_source.manual_dir(config) == Path("/archives")
    config.update(data_dir="~/a", manual_dir="~/b")
    assert tfds_source.data_dir(config) == tmp_path / "a"
    assert tfds_source.manual_dir(config) == tmp_path / "b"

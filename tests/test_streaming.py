"""Examples on the host: a device call gets its own rows alone, and the same bits."""

import json
import os
import sys

import jax
import numpy as np
import pytest

from mnist_jax.data.builtin import make_fake
from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.data.rows import Rows
from mnist_jax.train_loop import train_and_evaluate
from tests import jobs
from tests.faults import processes
from tests.test_resume import assert_same_run
from tests.workdirs import journal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The fake dataset as a folder of .npy files."""
    folder = tmp_path_factory.mktemp("data")
    for part, (image, label) in make_fake(0).splits.items():
        np.save(folder / f"x_{part}.npy", image)
        np.save(folder / f"y_{part}.npy", label)
    np.save(folder / "class_names.npy", [*map(str, range(10))])
    return folder


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_run_has_the_bits_of_one_on_the_device_also_if_it_changes_its_place(
    folder, fake_config, tmp_path, num_seeds
):
    fake_config.update(dataset=str(folder), num_seeds=num_seeds, dropout=0.2)
    fake_config.update(augmentation="elastic", momentum=0.9, examples="device")
    device = train_and_evaluate(fake_config, tmp_path / "device")
    for place, steps in (("host", 20), ("device", 30), ("host", 40)):
        fake_config.update(examples=place, num_train_steps=steps, eval_every_steps=20)
        mixed = train_and_evaluate(fake_config, tmp_path / "mixed")
    fake_config.update(examples="host")
    host = train_and_evaluate(fake_config, tmp_path / "host")
    assert_same_run(host, tmp_path / "host", device, tmp_path / "device")
    for a, b in zip(jax.tree.leaves(mixed), jax.tree.leaves(device), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_is_killed_is_resumed_to_the_bit(folder, tmp_path):
    fields = processes.SHORT_RUN | {
        "dataset": folder,
        "examples": "host",
        "num_train_steps": 80,
    }
    whole = processes.run(processes.train_command(tmp_path / "whole", fields))
    assert whole.returncode == 0, whole.stderr
    process = processes.start(processes.train_command(tmp_path / "killed", fields))
    while not process.stdout.readline().startswith("Step 40:"):
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert processes.run(processes.train_command(tmp_path / "killed", fields)).returncode == 0
    config = processes.short_config(**fields | {"dataset": str(folder)})
    assert processes.remains(tmp_path / "killed", config) == processes.remains(
        tmp_path / "whole", config
    )


def test_calls_are_short_if_their_rows_are_large(fake_config, tmp_path, after_train_steps):
    images = np.zeros((60, 700, 1000, 3), np.uint8)  # 2.1 MB each.
    dataset = Dataset.from_splits("large", "ab", {"train": Split(images, np.arange(60) % 2)})
    steps = []
    after_train_steps(
        lambda state, metrics: (steps.append(int(state.step)), (state, metrics))[1]
    )
    fake_config.update(examples="host", num_train_steps=10, hidden_sizes=(), learning_rate=1e-6)
    train_and_evaluate(fake_config, tmp_path, dataset=dataset)
    assert steps == [4, 8, 10]  # Calls of 256 MiB at most.


@pytest.mark.parametrize("change", ["shrink", "rewrite"])
def test_a_file_that_changes_ends_the_run_with_one_line(tmp_path, change):
    """A large one: a small one is read once."""
    shape = (400_000, 28, 28)  # Sparse.
    np.lib.format.open_memmap(tmp_path / "x_train.npy", "w+", np.uint8, shape)
    np.save(tmp_path / "y_train.npy", np.arange(shape[0]) % 2)
    fields = processes.SHORT_RUN | {"dataset": tmp_path, "examples": "host"}
    fields |= {"num_train_steps": 10**6, "eval_every_steps": 10**6, "eval_batch_size": 50_000}
    process = processes.start(processes.train_command(tmp_path / "run", fields))
    while not process.stdout.readline().startswith("Step 40:"):
        assert process.poll() is None
    if change == "shrink":
        os.truncate(tmp_path / "x_train.npy", 1000)
    else:  # In the same place, with the same size.
        np.lib.format.open_memmap(tmp_path / "x_train.npy", "r+")[0] = 1
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    warning, line = stderr.splitlines()
    assert "images are uint8 from 0 to 0, but" in warning
    assert line.startswith(f"dataset: {tmp_path / 'x_train.npy'}: ")


def test_each_device_reads_its_own_rows(folder):
    """So each process does: JAX asks it for the rows of its own devices alone."""
    script = """
import json, sys
import numpy as np
from pathlib import Path
from mnist_jax.data.rows import Rows
from mnist_jax.parallel import sharding
rows, reads = Rows.of(np.load(sys.argv[1], mmap_mode="r")), []
real = Rows.__getitem__
def read(self, key):
    reads.append(np.asarray(key).tolist())
    return real(self, key)
Rows.__getitem__ = read
for members, shape in ((1, (8,)), (1, (3, 8)), (2, (2, 3, 4)), (1, (3, 7))):
    indices = np.arange(np.prod(shape)).reshape(shape)
    with sharding.use_devices(members):
        array = sharding.put_rows(rows, indices)
        assert (np.asarray(array) == real(rows, indices.ravel()).reshape(array.shape)).all()
print(json.dumps(reads))
"""
    ended = processes.run(
        [sys.executable, "-c", script, str(folder / "x_train.npy")], env=jobs.devices(2)
    )
    assert ended.returncode == 0, ended.stderr
    reads = [sorted(read) for read in json.loads(ended.stdout)]
    assert reads[0:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    of_first = [*range(4), *range(8, 12), *range(16, 20)]
    assert reads[2:4] == [of_first, sorted({*range(24)} - {*of_first})]
    assert reads[4:6] == [[*range(12)], [*range(12, 24)]]  # A member each.
    assert reads[6:] == [[*range(21)]]  # 7 rows do not divide: all, once.


@pytest.mark.parametrize("num_processes", [1, 2])
def test_two_devices_count_the_same_as_from_their_memory(folder, tmp_path, num_processes):
    fields = jobs.FIELDS | {"dataset": folder, "eval_batch_size": 250}
    jobs.run_alone(tmp_path / "device", 2, fields | {"examples": "device"})
    fields["examples"] = "host"
    if num_processes == 1:
        jobs.run_alone(tmp_path / "host", 2, fields)
    else:
        jobs.run(tmp_path / "host", 2, 1, fields)
    device, host = (
        json.loads((tmp_path / name / "results.json").read_text())["splits"]
        for name in ("device", "host")
    )
    for split, result in device.items():
        assert host[split]["num_correct"] == result["num_correct"]
        assert host[split]["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert [line["step"] for line in journal(tmp_path / "host")][-1] == 40


def test_rows_are_not_copied_to_memory(folder):
    rows = np.load(folder / "x_train.npy", mmap_mode="r")
    dataset = Dataset.from_splits("mine", "ab", {"train": Split(rows, np.arange(2000) % 2)})
    assert isinstance(dataset.examples.image, Rows)

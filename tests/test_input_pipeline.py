import hashlib
import weakref

import jax
import numpy as np
import pytest

from mnist_jax.data.builtin import make_fake
from mnist_jax.data.datasets import Split
from mnist_jax.input_pipeline import (
    batch_indices,
    choose_place,
    create_source,
    epoch_order,
    eval_indices,
    take,
)
from mnist_jax.runtime import memory
from mnist_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("batch_size", "num_examples"), [(100, 550), (7, 10), (10, 10), (3, 11)]
)
def test_the_stream_is_one_permutation_an_epoch_end_to_end(batch_size, num_examples):
    num_steps = 5 * num_examples // batch_size
    stream = batch_indices(3, range(1, num_steps + 1), batch_size, num_examples).ravel()
    assert stream.dtype == np.int32
    epochs = [stream[i : i + num_examples] for i in range(0, len(stream), num_examples)]
    assert len(epochs) == 5
    for epoch in epochs:
        assert len(np.unique(epoch)) == len(epoch)  # No example dropped, none twice.
        assert 0 <= epoch.min() <= epoch.max() < num_examples


def test_a_step_is_the_same_wherever_the_range_begins():
    whole = batch_indices(0, range(1, 41), 30, 200)
    for first in (1, 7, 23, 40):
        for last in (first, 40):
            part = batch_indices(0, range(first, last + 1), 30, 200)
            np.testing.assert_array_equal(part, whole[first - 1 : last])


def test_seed_and_epoch_decide_the_order():
    orders = [epoch_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for i, a in enumerate(orders):
        for b in orders[i + 1 :]:
            # Fixed points of a random permutation are Poisson(1): 10 has odds of 1e-7.
            assert (a == b).sum() < 10


def test_the_order_never_changes():
    """Checkpoints of earlier versions go on with the examples they would have had."""
    orders = np.stack([epoch_order(seed, 2, 55_000) for seed in (0, 2**32 - 1)])
    digest = hashlib.sha256(orders.astype("<i4").tobytes()).hexdigest()
    assert digest == "092f0ed8692433090c451b62a33ba095bed6877788a16a5fac9d9c30664e312f"


def test_the_orders_of_two_epochs_are_kept_in_memory_and_cannot_be_changed():
    """A device call may span two epochs; of many examples, each order takes much memory."""
    orders = [weakref.ref(epoch_order(5, epoch, 1000)) for epoch in range(3)]
    assert orders[0]() is None
    assert orders[1]() is epoch_order(5, 1, 1000)
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(5, 1, 1000)[0] = 0


@pytest.mark.parametrize("sizes", [(1, 9, 10), (10, 1, 11), (25, 20, 9), (7, 2, 3)])
def test_eval_indices_hold_every_example_once_in_order(sizes):
    indices = eval_indices(dict(zip(("train", "validation", "test"), sizes, strict=True)), 10)
    start, batch_size = 0, min(10, max(sizes))  # No larger than the largest split.
    for batches, size in zip(indices.values(), sizes, strict=True):
        assert batches.shape == (-(-size // batch_size), batch_size)
        np.testing.assert_array_equal(batches[batches >= 0], np.arange(start, start + size))
        assert (batches == -1).sum() == batches.size - size
        start += size


@pytest.mark.parametrize("place", ["device", "host"])
def test_a_batch_has_the_rows_of_its_indices(place):
    """From the host, padding has example 0."""
    images, labels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2), np.arange(6) * 10
    examples, rows = create_source(Split(images, labels), place).feed(np.array([4, 0, 4]))
    batch = jax.jit(take)(examples, rows)
    np.testing.assert_array_equal(batch["image"], images[[4, 0, 4]], strict=True)
    np.testing.assert_array_equal(batch["label"], labels[[4, 0, 4]])


def test_a_source_gives_a_call_all_examples_on_the_device_or_its_rows_alone():
    examples, indices = make_fake(0).examples, np.array([[3, -1]], np.int32)
    given, rows = create_source(examples, "device").feed(indices)
    assert given.keys() == {"image", "label"}
    assert all(isinstance(array, jax.Array) for array in given.values())
    assert rows is indices
    given, rows = create_source(examples, "host").feed(indices)
    assert given is None
    np.testing.assert_array_equal(rows["image"], examples.image[[[3, 0]]])
    np.testing.assert_array_equal(rows["label"], examples.label[[[3, 0]]])


class File:
    """Four rows in a file of some size; counts how often it is read."""

    shape, reads = (4,), 0

    def __init__(self, nbytes: int):
        self.nbytes = nbytes

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:]

    def __getitem__(self, key) -> np.ndarray:
        self.reads += 1
        return np.arange(4)[key]


@pytest.mark.parametrize(
    ("nbytes", "processes", "reads"), [(2**28, 1, 1), (2**28 + 1, 1, 3), (2**28, 2, 3)]
)
def test_a_file_of_256_mib_or_less_is_read_once_by_a_single_process(
    nbytes, processes, reads, monkeypatch
):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    file = File(nbytes)
    source = create_source(Split(file, np.zeros(4)), "host")
    for _ in range(3):
        _, rows = source.feed(np.array([2, 1]))
        np.testing.assert_array_equal(rows["image"], [2, 1])
    assert file.reads == reads


def test_the_place_depends_on_the_memory(monkeypatch):
    examples = make_fake(0).examples
    size = examples.image.nbytes + examples.label.nbytes
    for limit, place in ((2 * size + 2, "device"), (2 * size, "host")):
        monkeypatch.setattr(memory, "device_limit", lambda limit=limit: limit)
        assert choose_place(examples, "auto") == place
    monkeypatch.setattr(memory, "device_limit", lambda: size)
    assert choose_place(examples, "device") == "device"
    monkeypatch.setattr(memory, "device_limit", lambda: size - 1)
    assert choose_place(examples, "host") == "host"
    with pytest.raises(UserError, match=r"config.examples: .* GB; set it to host"):
        choose_place(examples, "device")

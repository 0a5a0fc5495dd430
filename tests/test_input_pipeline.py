import hashlib

import numpy as np
import pytest

from mnist_jax.input_pipeline import batch_indices, epoch_order, eval_indices


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


@pytest.mark.parametrize("sizes", [(1, 9, 10), (10, 1, 11), (25, 20, 9)])
def test_eval_indices_hold_every_example_once_in_order(sizes):
    indices = eval_indices(dict(zip(("train", "validation", "test"), sizes, strict=True)), 10)
    start = 0
    for batches, size in zip(indices.values(), sizes, strict=True):
        assert batches.shape == (-(-size // 10), 10)
        np.testing.assert_array_equal(batches[batches >= 0], np.arange(start, start + size))
        assert (batches < 0).sum() == batches.size - size
        start += size

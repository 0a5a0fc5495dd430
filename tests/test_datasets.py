import hashlib

import jax
import numpy as np
import pytest

from mnist_jax import input_pipeline, train_loop
from mnist_jax.data import datasets
from mnist_jax.parallel import devices
from mnist_jax.train_step import create_train_state, train_steps


def digest(dataset: datasets.Dataset) -> str:
    sha256 = hashlib.sha256()
    for split in dataset.splits.values():
        sha256.update(split.image.tobytes() + split.label.astype("<i4").tobytes())
    return sha256.hexdigest()


def test_mnist_5k_is_stratified_and_fixed():
    dataset = datasets.load_mnist_5k()
    for split, per_class in zip(dataset.splits.values(), (400, 50, 50), strict=True):
        assert np.bincount(split.label).tolist() == [per_class] * 10
    assert digest(dataset) == (
        "176de1153fc62c9d435cfe3a73565e2ba3b3bd9f0f3ab2ab7451deb9632d4fc9"
    )
    images = np.concatenate([split.image.reshape(-1, 784) for split in dataset.splits.values()])
    assert len(np.unique(images, axis=0)) == 5000  # No image in two splits.


def test_fake_data_is_made_from_the_seed():
    dataset = datasets.make_fake(0)
    assert digest(dataset) == digest(datasets.make_fake(0))
    assert digest(dataset) != digest(datasets.make_fake(1))


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        ("image", np.zeros((3, 28, 27), np.uint8), "test images are uint8"),
        ("image", np.zeros((3, 28, 28), np.float32), "test images are float32"),
        ("image", np.zeros((2, 28, 28), np.uint8), "test labels are int32"),
        ("label", np.zeros(3, np.int64), "test labels are int64"),
        ("label", np.array([0, 1, 2], np.int32), "labels reach beyond 2 classes"),
    ],
)
def test_splits_that_are_no_dataset_are_refused(field, array, message):
    good = datasets.Split(np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.int32))
    bad = good._replace(**{field: array})
    with pytest.raises(ValueError, match=message):
        datasets.join("bad", 2, train=good, validation=good, test=bad)


def test_a_cpu_shares_the_memory_of_the_examples():
    """Else they would lie in memory once more, and each start would copy them."""
    if jax.default_backend() != "cpu":
        pytest.skip("another device has a memory of its own")
    dataset = datasets.make_fake(0)
    with devices.use_all():
        arrays = devices.put(dataset.examples)
    for on_device, on_host in zip(arrays, dataset.examples, strict=True):
        assert on_device.unsafe_buffer_pointer() == on_host.ctypes.data
        assert not on_host.flags.writeable
    for split in dataset.splits.values():
        assert np.shares_memory(split.image, dataset.examples.image)


def test_fake_data_is_learnable(fake_config):
    dataset = datasets.make_fake(0)
    fake_config.learning_rate = 0.1
    state = create_train_state(fake_config, 10)
    indices = input_pipeline.batch_indices(0, range(1, 101), 30, dataset.sizes["train"])
    state, _ = train_steps(state, *dataset.examples, indices)
    eval_indices = input_pipeline.eval_indices(dataset.sizes, 500)
    results, _ = train_loop.evaluate(
        state.params, state.apply_fn, dataset.examples, eval_indices
    )
    assert results["test"].accuracy > 0.9

"""What a dataset guarantees about its arrays."""

import numpy as np
import pytest

from mnist_jax.data.datasets import Dataset, Split


def make_split(num_examples: int, value: int = 0) -> Split:
    image = np.full((num_examples, 28, 28), value, np.uint8)
    return Split(image, np.full(num_examples, value, np.int32))


def test_splits_are_views_of_the_examples_in_their_order():
    # In another order: that of the examples is always the same.
    parts = {
        "test": make_split(1, 2),
        "train": make_split(3, 0),
        "validation": make_split(2, 1),
    }
    dataset = Dataset.from_splits("name", 3, parts)
    assert dataset.sizes == {"train": 3, "validation": 2, "test": 1}
    assert dataset.examples.label.tolist() == [0, 0, 0, 1, 1, 2]
    assert list(dataset.splits) == ["train", "validation", "test"]
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(split.image, parts[name].image)
        np.testing.assert_array_equal(split.label, parts[name].label)
        assert np.shares_memory(split.image, dataset.examples.image)


def test_arrays_are_read_only():
    split = make_split(1)
    dataset = Dataset.from_splits(
        "name", 1, {"train": split, "validation": split, "test": split}
    )
    for array in dataset.examples:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        ("image", np.zeros((3, 28, 28), np.float32), r"float32\(9, 28, 28\), expected uint8"),
        ("image", np.zeros((2, 28, 28), np.uint8), r"uint8\(8, 28, 28\), expected uint8\(9, "),
        ("image", np.zeros((3, 28, 27), np.uint8), "28.* 27"),
        ("label", np.zeros(3, np.int64), r"int64\(9,\), expected int32\(9,\)"),
        ("label", np.array([0, 1, 2], np.int32), "labels from 0 to 2, but 2 classes"),
        ("label", np.array([0, -1, 1], np.int32), "labels from -1 to 1, but 2 classes"),
    ],
)
def test_wrong_arrays_are_an_error(field, array, message):
    good = make_split(3)
    bad = good._replace(**{field: array})
    with pytest.raises(ValueError, match=message):
        Dataset.from_splits("name", 2, {"train": good, "validation": good, "test": bad})


@pytest.mark.parametrize("test", [{}, {"test": make_split(0)}])
def test_a_missing_or_empty_split_is_an_error(test):
    split = make_split(1)
    with pytest.raises(ValueError, match="examples of each split"):
        Dataset.from_splits("name", 1, {"train": split, "validation": split} | test)

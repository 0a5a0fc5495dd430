"""What a dataset guarantees about its arrays."""

import numpy as np
import pytest

from mnist_jax.data.datasets import SPLITS, Dataset, Split


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
    dataset = Dataset.from_splits("name", "abc", parts)
    assert dataset.sizes == {"train": 3, "validation": 2, "test": 1}
    assert dataset.examples.label.tolist() == [0, 0, 0, 1, 1, 2]
    assert list(dataset.splits) == ["train", "validation", "test"]
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(split.image, parts[name].image)
        np.testing.assert_array_equal(split.label, parts[name].label)
        assert np.shares_memory(split.image, dataset.examples.image)


def test_arrays_are_read_only():
    split = make_split(1)
    dataset = Dataset.from_splits("name", "a", dict.fromkeys(SPLITS, split))
    for array in dataset.examples:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        (
            "image",
            np.zeros((3, 28, 28), np.float32),
            r"images are float32\(3, 28, 28\)",
        ),
        ("image", np.zeros((3, 784), np.uint8), r"images are uint8\(3, 784\), expected"),
        (
            "image",
            np.zeros((2, 28, 28), np.uint8),
            r"labels are int32\(3,\), .*\(2,\)",
        ),
        ("image", np.zeros((3, 28, 0), np.uint8), "no images"),
        ("label", np.zeros(3), r"labels are float64\(3,\), expected integers"),
        ("label", np.zeros((3, 2), np.int32), r"labels are int32\(3, 2\), expected integers"),
        ("label", np.array([0, 1, 2]), "labels from 0 to 2, expected 0 to 1"),
        ("label", np.array([0, -1, 1]), "labels from -1 to 1, expected 0 to 1"),
        ("label", np.array([0, 1, 2**32]), "labels from 0 to 4294967296, expected 0 to 1"),
    ],
)
def test_wrong_arrays_are_an_error_that_names_the_split(field, array, message):
    good = make_split(3)
    bad = good._replace(**{field: array})
    with pytest.raises(ValueError, match=f"^test: {message}"):
        Dataset.from_splits("name", "ab", {"train": good, "validation": good, "test": bad})


def test_splits_of_different_shapes_are_an_error():
    test = Split(np.zeros((3, 28, 27), np.uint8), np.zeros(3, int))
    with pytest.raises(ValueError, match=r"different shapes: .*'test': \(3, 28, 27\)"):
        Dataset.from_splits("name", "a", {"train": make_split(3), "test": test})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": make_split(1), "test": make_split(0)}, "test: no images"),
        ({"train": make_split(1)}, "examples of each split: {'train': 0,"),
        ({"validation": make_split(1), "test": make_split(1)}, "expected train"),
        ({"train": make_split(9), "val": make_split(9)}, r"splits \['train', 'val'\]"),
    ],
)
def test_an_empty_or_unknown_split_is_an_error(splits, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_splits("name", "a", splits)


def test_the_shape_and_the_classes_come_from_the_data():
    image = np.zeros((24, 8, 6, 1), np.uint8)
    label = np.arange(24, dtype=np.int64) % 2
    grey = Dataset.from_splits("mine", ["cat", "dog"], {"train": Split(image, label)})
    assert (grey.class_names, grey.num_classes, grey.image_shape) == (("cat", "dog"), 2, (8, 6))
    assert grey.examples.label.dtype == np.int32
    colour = Split(np.repeat(image, 3, axis=3), label)
    assert Dataset.from_splits("mine", "ab", {"train": colour}).image_shape == (8, 6, 3)


@pytest.mark.parametrize("is_sorted", [False, True])
def test_missing_splits_are_a_twelfth_of_the_training_examples_each(is_sorted):
    label = np.arange(144) % 3
    label = np.sort(label) if is_sorted else label
    image = np.arange(144, dtype=np.uint8).reshape(144, 1, 1)
    dataset = Dataset.from_splits("name", "abc", {"train": Split(image, label)})
    assert dataset.sizes == {"train": 121, "validation": 12, "test": 11}
    for split in dataset.splits.values():
        assert set(split.label) == {0, 1, 2}  # Also where they are sorted by class.
        np.testing.assert_array_equal(split.label, label[split.image.ravel()])
    image = dataset.examples.image.ravel()
    assert sorted(image) == list(range(144))
    if not is_sorted:  # The tutorial's: the first ones.
        assert dataset.splits["validation"].image.ravel().tolist() == list(range(12))


def test_the_digest_is_that_of_the_examples():
    def digest(**changes):
        splits = {"train": make_split(3), "validation": make_split(2), "test": make_split(2)}
        return Dataset.from_splits("name", "ab", splits | changes).digest

    assert digest() == digest()
    assert len({digest(), digest(test=make_split(2, 1)), digest(test=make_split(3))}) == 3

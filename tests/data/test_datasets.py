"""What a dataset guarantees about its arrays."""

import ml_dtypes
import numpy as np
import pytest

from mnist_jax.data import builtin
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
        *(
            ("image", np.zeros((3, 28, 28), dtype), r"images are .*\(3, 28, 28\), .* float32")
            for dtype in ("f8", "i8", "u8", "c8", "?", "O", "U1", "S1", "M8[s]", "m8[s]", ">f4")
        ),
        ("image", np.zeros((2, 28, 28), np.uint8), r"labels are int32\(3,\), .*\(2, \.\.\.\)"),
        ("image", np.zeros((3, 28, 0), np.uint8), "no images"),
        ("image", np.uint8(1), "no images"),
        *(
            (
                "label",
                np.zeros(3, dtype),
                r"labels are .*\(3,\), expected \(3, \.\.\.\): the numbers",
            )
            for dtype in ("c8", "O", "U1", "S1", "M8[s]", "m8[s]")
        ),
        ("label", np.array([0, 1, 2**31]), "labels are from 0 to 2147483648, .* int32"),
        ("label", np.array([0, -(2**31) - 1, 1]), "labels are from -2147483649 to 1, .* int32"),
        (
            "label",
            np.array([0, 1, 2**63], np.uint64),
            "labels are from 0 to 922337203685477580",
        ),
        ("label", np.array([0, 1, np.nan]), "labels are from nan to nan, .* finite .* float32"),
        (
            "label",
            np.array([0, 1, 1e39]),
            r"labels are from 0\.0 to 1e\+39, .* finite",
        ),
    ],
)
def test_wrong_arrays_are_an_error_that_names_the_split(field, array, message):
    good = make_split(3)
    bad = good._replace(**{field: array})
    with pytest.raises(ValueError, match=rf"^test: {message}[^\n]*$"):
        Dataset.from_splits("name", "ab", {"train": good, "validation": good, "test": bad})


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (4, 4, 2), (2, 1, 2, 1)])
def test_examples_may_have_any_shape_and_type_of_at_most_32_bits(shape):
    for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", ml_dtypes.bfloat16):
        image = np.arange(24 * np.prod(shape, dtype=int)).reshape(24, *shape).astype(dtype)
        dataset = Dataset.from_splits("mine", (), {"train": Split(image, np.arange(24.0))})
        assert (dataset.input.shape, dataset.input.dtype) == (shape, np.dtype(dtype))
        assert dataset.class_names == ()
        assert dataset.sizes == {"train": 20, "validation": 2, "test": 2}
        order = dataset.examples.label.astype(int)
        np.testing.assert_array_equal(dataset.examples.image, image[order], strict=True)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (np.arange(24, dtype=np.uint64) % 2, np.int32),
        (np.arange(24).astype(">i2"), np.int32),
        (np.arange(24) % 2 == 1, np.int32),
        (np.arange(24) / 7, np.float32),
        (np.arange(24).astype(np.float16), np.float32),
        (np.arange(48).reshape(24, 2), np.int32),
        (np.linspace(0, 1, 24).reshape(24, 1), np.float32),
        (np.linspace(0, 1, 96).reshape(24, 2, 2), np.float32),
    ],
)
def test_labels_may_be_real_numbers_of_any_type_and_shape(label, expected):
    image = np.arange(24, dtype=np.uint8)
    dataset = Dataset.from_splits("mine", (), {"train": Split(image, label)})
    assert dataset.examples.label.dtype == expected
    order = dataset.examples.image
    np.testing.assert_array_equal(dataset.examples.label, label[order].astype(expected))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            Split(np.zeros((3, 28, 27), np.uint8), np.zeros(3, int)),
            r"^images of different shapes, .*'test': 'uint8\(3, 28, 27\)'",
        ),
        (Split(np.zeros((3, 28, 28), np.int8), np.zeros(3, int)), "'test': 'int8"),
        (Split(np.zeros((3, 28, 28), np.uint8), np.zeros(3)), "^labels of .*'test': 'float32"),
        (Split(np.zeros((3, 28, 28), np.uint8), np.zeros((3, 2), int)), r"int32\(3, 2\)"),
    ],
)
def test_splits_of_different_forms_are_an_error(test, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_splits("name", "a", {"train": make_split(3), "test": test})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": make_split(1), "test": make_split(0)}, "test: no images"),
        ({"train": make_split(1)}, "too few training examples"),
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
    assert (grey.class_names, grey.input.shape) == (("cat", "dog"), (8, 6))
    assert grey.examples.label.dtype == np.int32
    colour = Split(np.repeat(image, 3, axis=3), label)
    assert Dataset.from_splits("mine", "ab", {"train": colour}).input.shape == (8, 6, 3)


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


def test_the_digest_of_images_with_classes_is_that_of_earlier_versions():
    digest = "2de1363c4bb5bff1e1986976788e69ee4ec29a032efc84d7d52eb19ea00406d7"
    assert builtin.load_mnist_5k().digest == digest


def test_the_order_of_memory_decides_nothing():
    image = np.random.default_rng(0).integers(0, 256, (24, 4, 3), np.uint8)
    label = np.arange(24).reshape(12, 2) % 3
    expected = Dataset.from_splits("a", (), {"train": Split(image, label.reshape(24))})
    for other in (np.asfortranarray(image), image.T.copy().T, image[::-1].copy()[::-1]):
        split = Split(other, np.asfortranarray(label).reshape(24))
        dataset = Dataset.from_splits("a", (), {"train": split})
        assert dataset.digest == expected.digest
        for array, expected_array in zip(dataset.examples, expected.examples, strict=True):
            np.testing.assert_array_equal(array, expected_array)
            assert array.flags.c_contiguous


def test_the_digest_is_that_of_the_examples():
    def digest(**changes):
        splits = {"train": make_split(3), "validation": make_split(2), "test": make_split(2)}
        return Dataset.from_splits("name", "ab", splits | changes).digest

    assert digest() == digest()
    assert len({digest(), digest(test=make_split(2, 1)), digest(test=make_split(3))}) == 3


def test_the_digest_covers_types_and_shapes():
    labels = [
        np.zeros(24, int),
        np.zeros(24),
        np.zeros((24, 2), int),
        np.zeros((24, 2, 1), int),
    ]
    images = [np.zeros((24, 4), dtype) for dtype in ("u1", "i1", "u4", "i4", "f4")]
    datasets = {
        Dataset.from_splits("name", "a", {"train": Split(image, label)}).digest
        for image in images
        for label in labels
    }
    assert len(datasets) == len(images) * len(labels)

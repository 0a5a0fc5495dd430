"""A dataset by its name, and the fallback where it is not available."""

from pathlib import Path

import pytest

from mnist_jax.configs import default
from mnist_jax.data.load import load_dataset
from mnist_jax.runtime.errors import DatasetUnavailableError, UserError


@pytest.fixture
def unavailable(no_network, tmp_path):
    """A config whose dataset is not prepared and can't be downloaded."""
    config = default.get_config()
    config.data_dir = str(tmp_path / "data")
    return config


@pytest.mark.parametrize(("name", "size"), [("mnist_5k", 4000), ("fake", 2000)])
def test_builtin_datasets_need_no_folder(name, size, unavailable):
    unavailable.dataset = name
    dataset = load_dataset(unavailable, may_fall_back=False)
    assert (dataset.name, dataset.sizes["train"]) == (name, size)
    assert not Path(unavailable.data_dir).exists()


def test_the_fallback_replaces_an_unavailable_dataset_with_a_warning(unavailable):
    dataset = load_dataset(unavailable)
    assert (dataset.name, dataset.normalization) == ("mnist_5k", "mnist")
    (warning,) = dataset.warnings
    assert "mnist is not available, so this run uses mnist_5k instead" in warning
    assert "Connection refused" in warning
    assert not Path(unavailable.data_dir).exists()


def test_without_a_fallback_the_error_names_the_files_and_where_to_put_them(unavailable):
    unavailable.fallback_dataset = ""
    with pytest.raises(DatasetUnavailableError) as error:
        load_dataset(unavailable)
    for word in (
        "t10k-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        f"{unavailable.data_dir}/downloads/manual",
        "--config.manual_dir",
        "MNIST_JAX_MANUAL_DIR",
    ):
        assert word in str(error.value)


def test_a_run_that_exists_does_not_fall_back(unavailable, capsys):
    with pytest.raises(DatasetUnavailableError):
        load_dataset(unavailable, may_fall_back=False)
    assert capsys.readouterr().err == ""


def test_the_fallback_stands_in_for_mnist_alone(unavailable, capsys):
    unavailable.dataset = "fashion_mnist"
    with pytest.raises(DatasetUnavailableError, match="fashion_mnist is not prepared"):
        load_dataset(unavailable)
    assert capsys.readouterr().err == ""


def test_a_misspelt_name_does_not_fall_back(unavailable):
    unavailable.dataset = "mnits"
    with pytest.raises(UserError, match="did you mean mnist") as error:
        load_dataset(unavailable)
    assert not isinstance(error.value, DatasetUnavailableError)

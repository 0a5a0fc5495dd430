"""A trained model from its workdir alone."""

import numpy as np
import pytest

from mnist_jax import restoring
from mnist_jax.runtime.errors import UserError
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import create_fake_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_and_evaluate(create_fake_config(), folder)
    return folder


def test_the_newest_the_best_or_any_step_can_be_restored(workdir):
    assert restoring.restore(workdir).step == 40
    assert restoring.restore(str(workdir), "best").step in (20, 40)
    assert restoring.restore(workdir, "20").step == 20


def test_probabilities_of_each_image_sum_to_one(workdir):
    model = restoring.restore(workdir)
    dataset = restoring.load_run_dataset(model)
    probabilities = model.predict(dataset.splits["test"].image)
    assert probabilities.shape == (500, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    accuracy = (probabilities.argmax(axis=1) == dataset.splits["test"].label).mean()
    assert accuracy > 0.5  # Of ten classes: it is the trained model.


def test_a_dataset_prepared_elsewhere_is_searched_here(workdir):
    model = restoring.restore(workdir)
    with model.config.unlocked():
        model.config.data_dir = model.config.manual_dir = "/nowhere"
    assert restoring.load_run_dataset(model).name == "fake"


@pytest.mark.parametrize("step", ["60", "-20", "newest", "2e1", "²"])
def test_a_step_that_does_not_exist_is_refused(workdir, step):
    with pytest.raises(UserError, match=r"^step: "):
        restoring.restore(workdir, step)


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(UserError, match="contains no checkpoints"):
        restoring.restore(tmp_path)

"""A trained model from its workdir alone."""

import shutil

import numpy as np
import pytest

from mnist_jax import restoring
from mnist_jax.runtime import manifest as manifest_lib
from mnist_jax.runtime.errors import UserError
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import create_fake_config
from tests.workdirs import contents, edit_manifest, probabilities, rated


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
    predicted = probabilities(model, dataset.splits["test"].image)
    assert predicted.shape == (500, 10)
    np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-5)
    accuracy = (predicted.argmax(axis=1) == dataset.splits["test"].label).mean()
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


def test_a_checkpoint_that_training_deletes_meanwhile_is_not_damaged(
    workdir, tmp_path, monkeypatch
):
    """It is renamed after the steps were listed, or while its files are read."""
    for function in (manifest_lib.read, manifest_lib.verify_files):
        for step in ("latest", "best"):
            run = shutil.copytree(workdir, tmp_path / f"{function.__name__}-{step}")
            edit_manifest(
                run / "checkpoints/40/default",
                lambda content: content.update(best=rated(1.0)),
            )

            def delete_first(folder, *args, run=run, function=function):
                if folder.parent.name == "40" and folder.exists():
                    shutil.rmtree(run / "checkpoints/40")
                return function(folder, *args)

            monkeypatch.setattr(manifest_lib, function.__name__, delete_first)
            assert restoring.restore(run, step).step == 20
            monkeypatch.undo()


def test_a_step_that_training_deletes_meanwhile_is_no_longer_there(
    workdir, tmp_path, monkeypatch
):
    run = shutil.copytree(workdir, tmp_path / "run")
    read = manifest_lib.read

    def delete_first(folder):
        shutil.rmtree(run / "checkpoints/20", ignore_errors=True)
        return read(folder)

    monkeypatch.setattr(manifest_lib, "read", delete_first)
    with pytest.raises(
        UserError, match=r"no checkpoint '20'; choose latest, best or one of 40$"
    ):
        restoring.restore(run, "20")


def test_a_checkpoint_of_another_run_is_refused(workdir, tmp_path):
    train_and_evaluate(create_fake_config(), tmp_path / "other")
    shutil.copytree(workdir / "checkpoints/40", tmp_path / "other/checkpoints/60")
    edit_manifest(
        tmp_path / "other/checkpoints/60/default", lambda content: content.update(step=60)
    )
    before = contents(tmp_path)
    for step in ("latest", "best", "60"):
        with pytest.raises(UserError, match="step 60 is not of this run"):
            restoring.restore(tmp_path / "other", step)
    assert restoring.restore(tmp_path / "other", "40").step == 40
    assert contents(tmp_path) == before


def test_a_saved_config_is_read_and_not_judged(fake_config, tmp_path):
    """As of version 0.2, which allowed a field that the model ignores."""
    fake_config.model, fake_config.hidden_sizes = "cnn", (128, 32)
    train_and_evaluate(fake_config, tmp_path)
    for folder in (tmp_path / "checkpoints").glob("*/default"):
        edit_manifest(folder, lambda content: content["config"].update(hidden_sizes=[7]))
    assert restoring.restore(tmp_path).config.hidden_sizes == (7,)

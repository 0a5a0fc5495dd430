import shutil

import jax
import numpy as np
import pytest

from mnist_jax.checkpointing import Checkpoints
from mnist_jax.data.builtin import make_fake
from mnist_jax.input_pipeline import batch_indices
from mnist_jax.runtime.errors import DamagedCheckpointError
from mnist_jax.train_step import create_train_state, train_steps


@pytest.fixture
def state(fake_config):
    """A state whose every part has been written to: Adam's moments, counters, parameters."""
    fake_config.update(optimizer="adamw", weight_decay=0.1, grad_clip_norm=1.0, warmup_steps=3)
    dataset = make_fake(0)
    indices = batch_indices(0, range(1, 8), 30, 2000)
    return train_steps(create_train_state(fake_config, 10), *dataset.train, indices)[0]


def leaves(state) -> list:
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return [(jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)]


def assert_equal(a, b):
    for (path, x), (other_path, y) in zip(leaves(a), leaves(b), strict=True):
        assert path == other_path
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, strict=True)


def test_a_state_comes_back_to_the_bit(state, fake_config, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, fake_config, 10, 0.5)
    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(7, create_train_state(fake_config, 10)), state)


def test_the_parameters_come_back_without_the_rest(state, fake_config, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, fake_config, 10, None)
    with Checkpoints(tmp_path) as checkpoints:
        target = jax.eval_shape(lambda: state.params)
        params = checkpoints.restore_params(7, target)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_the_manifest_holds_the_config(state, fake_config, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, fake_config, 10, 0.25)
    with Checkpoints(tmp_path) as checkpoints:
        manifest = checkpoints.manifest(7)
    assert manifest.config.to_dict() == fake_config.to_dict()
    assert (manifest.step, manifest.num_classes, manifest.validation_accuracy) == (7, 10, 0.25)


def test_a_state_that_changed_on_disk_is_not_restored(state, fake_config, tmp_path):
    """Another state's files under this one's manifest: each of them is fine for orbax."""
    other = state.replace(params=jax.tree.map(lambda p: p + 1e-7, state.params))
    for name, saved in (("a", state), ("b", other)):
        with Checkpoints(tmp_path / name, keep=1) as checkpoints:
            checkpoints.save(saved, fake_config, 10, None)
    (tmp_path / "a/checkpoints/7/default/manifest.json").replace(
        tmp_path / "b/checkpoints/7/default/manifest.json"
    )
    with Checkpoints(tmp_path / "b") as checkpoints:
        with pytest.raises(DamagedCheckpointError, match=r"step 7 is damaged"):
            checkpoints.restore(7, state)
        with pytest.raises(DamagedCheckpointError, match=r"step 7 is damaged"):
            checkpoints.restore_params(7, state.params)


def test_setting_aside_loses_nothing(state, fake_config, tmp_path):
    for number in range(2):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(state, fake_config, 10, None)
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            destination = checkpoints.set_aside(7)
            assert checkpoints.steps() == []
        assert destination == tmp_path / f"damaged/7-{number}"
        assert (destination / "default/manifest.json").is_file()


def test_nothing_is_renamed_into_what_is_being_deleted(
    state, fake_config, tmp_path, monkeypatch
):
    """A save under way ends by renaming old checkpoints into the folder of the deleted."""
    rmtree, deleted = shutil.rmtree, []

    def rmtree_after_any_save(folder):
        names = [path.name for path in folder.iterdir()]
        checkpoints.steps()  # Waits for a save under way.
        assert [path.name for path in folder.iterdir()] == names
        deleted.extend(names)
        rmtree(folder)

    monkeypatch.setattr(shutil, "rmtree", rmtree_after_any_save)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in range(8):
            checkpoints.save(state.replace(step=np.int32(step)), fake_config, 10, None)
    assert deleted == [str(step) for step in range(7)]

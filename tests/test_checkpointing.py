import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.data.builtin import make_fake
from mnist_jax.input_pipeline import batch_indices
from mnist_jax.runtime import saved_arrays
from mnist_jax.runtime.errors import (
    DamagedCheckpointError,
    TrainingDivergedError,
    UserError,
    WriteError,
)
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.train_step import train_steps
from tests.states import create_state
from tests.workdirs import contents, rated

CLASS_NAMES = list("0123456789")


@pytest.fixture
def state(fake_config):
    """A state whose every part has been written to: Adam's moments, counters, parameters."""
    fake_config.update(optimizer="adamw", weight_decay=0.1, grad_clip_norm=1.0, warmup_steps=3)
    train = make_fake(0).splits["train"]
    indices = batch_indices(0, range(1, 8), 30, 2000)
    return train_steps(create_state(fake_config), train._asdict(), indices)[0]


def leaves(state) -> list:
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return [(jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)]


def assert_equal(a, b):
    for (path, x), (other_path, y) in zip(leaves(a), leaves(b), strict=True):
        assert path == other_path
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, strict=True)


def test_a_state_is_restored_to_the_bit(state, fake_config, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, rated(0.5)))
    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(7, create_state(fake_config)), state)


def test_the_parameters_can_be_restored_alone(state, fake_config, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, None))
    with Checkpoints(tmp_path) as checkpoints:
        target = jax.eval_shape(lambda: state.params)
        params = checkpoints.restore(7, {"params": target})["params"]
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_the_manifest_contains_the_config(state, fake_config, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, rated(0.25)))
    with Checkpoints(tmp_path) as checkpoints:
        manifest = checkpoints.manifest(7)
    assert manifest.config.to_dict() == fake_config.to_dict()
    assert manifest[:1] + manifest[2:4] == (7, CLASS_NAMES, rated(0.25))


def test_a_state_that_changed_on_disk_is_not_restored(state, fake_config, tmp_path):
    """Another state's files under this one's manifest: each of them is fine for orbax."""
    other = state.replace(params=jax.tree.map(lambda p: p + 1e-7, state.params))
    for name, saved in (("a", state), ("b", other)):
        with Checkpoints(tmp_path / name, keep=1) as checkpoints:
            checkpoints.save(saved, Manifest(7, fake_config, CLASS_NAMES, None))
    (tmp_path / "a/checkpoints/7/default/manifest.json").replace(
        tmp_path / "b/checkpoints/7/default/manifest.json"
    )
    with Checkpoints(tmp_path / "b") as checkpoints:
        with pytest.raises(DamagedCheckpointError, match=r"step 7 is damaged"):
            checkpoints.restore(7, state)
        with pytest.raises(DamagedCheckpointError, match=r"step 7 is damaged"):
            checkpoints.restore(7, {"params": state.params})


def test_a_state_of_another_shape_is_refused_and_left_alone(state, fake_config, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, None))
    before = contents(tmp_path)
    fake_config.hidden_sizes = (17,)
    wider = create_state(fake_config)
    more = state.replace(params=state.params | {"more": state.params["hidden1"]})
    fewer = state.replace(params={"hidden1": state.params["hidden1"]})
    halves = state.replace(
        params=jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params),
    )
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for target, difference in (
            (wider, r"hidden1/bias is float32\[16\], here float32\[17\]"),
            (more, "params/more/bias is missing"),
            (fewer, r"params/\w+/bias is not part of the state"),
            (halves, r"hidden1/bias is float32\[16\], here bfloat16\[16\]"),
        ):
            with pytest.raises(UserError, match=rf"does not fit .*{difference}"):
                checkpoints.restore_newest(target)
    assert contents(tmp_path) == before


def test_damaged_checkpoints_are_moved_and_none_is_lost(state, fake_config, tmp_path, capsys):
    for number in range(2):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, None))
        (tmp_path / "checkpoints/7/default/_METADATA").write_bytes(b"damaged")
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            assert checkpoints.restore_newest(state) == (state, None)
            assert checkpoints.steps() == []
        assert (tmp_path / f"damaged/7-{number}/default/manifest.json").is_file()
        assert f"moved to {tmp_path}/damaged/7-{number}" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read_back_is_not_committed(
    state, fake_config, tmp_path, monkeypatch
):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, Manifest(6, fake_config, CLASS_NAMES, None))
    with monkeypatch.context() as patch:
        patch.setattr(saved_arrays, "read", raise_error)
        checkpoints = Checkpoints(tmp_path, keep=1)
        checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, None))
        with pytest.raises(WriteError, match="no longer the same"):
            checkpoints.steps()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [6]
        assert_equal(checkpoints.restore(6, state), state)


def raise_error(*args, **kwargs):
    raise ValueError("no longer the same")


def test_superseded_checkpoints_are_deleted_once_a_newer_one_is_saved(
    state, fake_config, tmp_path
):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(8):
            accuracy = 0.9 if step == 3 else 0.5
            checkpoints.save(state, Manifest(step, fake_config, CLASS_NAMES, rated(accuracy)))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "6", "7"]


def test_superseded_checkpoints_of_a_killed_run_are_deleted(state, fake_config, tmp_path):
    """A kill between the last save and the deletion of what it replaces."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (5, 6, 7):
            checkpoints.save(state, Manifest(step, fake_config, CLASS_NAMES, None))
    (tmp_path / "checkpoints/deleted/4").mkdir(parents=True)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert_equal(checkpoints.restore_newest(state)[0], state)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["7"]


def test_the_best_step_is_the_newest_of_the_highest_accuracy_even_if_that_is_zero(fake_config):
    accuracies = {10: None, 20: 0.0, 30: 0.0, 40: None}
    manifests = [
        Manifest(step, fake_config, CLASS_NAMES, rated(x)) for step, x in accuracies.items()
    ]
    assert best_step(manifests) == 30
    assert best_step([manifests[0], manifests[3]]) is None


def test_every_leaf_of_a_state_is_saved_restored_and_checked(state, fake_config, tmp_path):
    """Because it is a leaf: no list names the collections."""
    averages = {"batch_stats": {"mean": jnp.arange(3.0)}}
    state = state.replace(collections=averages)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, None))
        zeros = jax.tree.map(jnp.zeros_like, state)
        restored = checkpoints.restore(checkpoints.steps()[0], zeros)
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        with pytest.raises(UserError, match=r"does not fit .*collections"):
            checkpoints.restore(7, create_state(fake_config))
        averages["batch_stats"]["mean"] = jnp.array([1.0, jnp.inf])
        with pytest.raises(TrainingDivergedError, match="batch_stats/mean is not finite"):
            checkpoints.save(state, Manifest(8, fake_config, CLASS_NAMES, None))


def test_a_checkpoint_of_another_run_is_refused_and_left_alone(state, fake_config, tmp_path):
    for name, step in (("a", 7), ("b", 6)):
        with Checkpoints(tmp_path / name, keep=2) as checkpoints:
            checkpoints.save(state, Manifest(step, fake_config, CLASS_NAMES, None))
    shutil.copytree(tmp_path / "a/checkpoints/7", tmp_path / "b/checkpoints/7")
    before = contents(tmp_path)
    with Checkpoints(tmp_path / "b", keep=2) as checkpoints:
        assert checkpoints.manifest(6).run_id is not None
        for use in (lambda: checkpoints.manifest(7), lambda: checkpoints.restore_newest(state)):
            with pytest.raises(UserError, match="step 7 is not of this run"):
                use()
    assert contents(tmp_path) == before


def test_a_copied_workdir_is_of_the_same_run_also_without_its_id(state, fake_config, tmp_path):
    with Checkpoints(tmp_path / "a", keep=2) as checkpoints:
        checkpoints.save(state, Manifest(6, fake_config, CLASS_NAMES, None))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/run_id").unlink()
    with Checkpoints(tmp_path / "b", keep=2) as checkpoints:
        assert_equal(checkpoints.restore_newest(state)[0], state)
        checkpoints.save(state, Manifest(7, fake_config, CLASS_NAMES, None))
    assert (tmp_path / "b/run_id").read_text() == (tmp_path / "a/run_id").read_text()
    shutil.copytree(tmp_path / "b/checkpoints/7", tmp_path / "a/checkpoints/7")
    assert_equal(Checkpoints(tmp_path / "a").restore(7, state), state)

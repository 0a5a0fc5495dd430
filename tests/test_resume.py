"""A resumed run has the bits of the uninterrupted one."""

import functools
import shutil
import signal

import jax
import numpy as np
import pytest

from mnist_jax import restoring
from mnist_jax.runtime.errors import UserError
from mnist_jax.runtime.signals import PreemptedError
from mnist_jax.train_loop import train_and_evaluate
from tests.workdirs import contents, curves, edit_manifest, journal


def without_speed(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in x.items() if k != "batch/steps_per_second"} for x in lines]


def assert_same_run(state, workdir, expected_state, expected_workdir):
    for a, b in zip(
        jax.tree.leaves((state.step, state.params, state.opt_state)),
        jax.tree.leaves((expected_state.step, expected_state.params, expected_state.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b, strict=True)
    assert without_speed(journal(workdir)) == without_speed(journal(expected_workdir))
    points, expected_points = curves(workdir), curves(expected_workdir)
    for tags in (points, expected_points):
        tags["train/batch/steps_per_second"] = [
            s for s, _ in tags["train/batch/steps_per_second"]
        ]
    assert points == expected_points


@pytest.mark.mnist
def test_on_mnist_at_any_interruption_and_steps_per_call(
    mnist_config, tmp_path, after_train_steps
):
    mnist_config.update(
        num_train_steps=600,
        eval_every_steps=200,
        checkpoint_every_steps=150,
        momentum=0.9,
        schedule="cosine",
        keep_checkpoints=10,
    )
    expected = train_and_evaluate(mnist_config, tmp_path / "whole")
    resumed = tmp_path / "resumed"
    for steps_per_call, signal_at in ((100, 210), (7, 333), (64, 555), (100, None)):
        mnist_config.steps_per_call = steps_per_call
        after_train_steps(functools.partial(stop_at, signal_at))
        if signal_at:
            with pytest.raises(PreemptedError):
                train_and_evaluate(mnist_config, resumed)
        else:
            state = train_and_evaluate(mnist_config, resumed)
    assert_same_run(state, resumed, expected, tmp_path / "whole")


def stop_at(signal_at, state, metrics):
    """SIGTERM during the device call that contains the step."""
    step = int(state.step)
    if signal_at and step - len(metrics["loss"]) < signal_at <= step:
        signal.raise_signal(signal.SIGTERM)
    return state, metrics


def test_after_a_crash_that_left_later_reports(fake_config, tmp_path, after_train_steps):
    """An error between two checkpoints: the reports after the first one are replaced."""
    fake_config.update(optimizer="adam", warmup_steps=5, num_train_steps=100)
    expected = train_and_evaluate(fake_config, tmp_path / "whole")

    def crash(state, metrics):
        if int(state.step) == 60:
            raise RuntimeError("crash")
        return state, metrics

    after_train_steps(crash)
    with pytest.raises(RuntimeError, match="crash"):
        train_and_evaluate(fake_config, tmp_path / "resumed")
    assert max(line["step"] for line in journal(tmp_path / "resumed")) in (40, 50)
    after_train_steps(None)
    state = train_and_evaluate(fake_config, tmp_path / "resumed")
    assert_same_run(state, tmp_path / "resumed", expected, tmp_path / "whole")


def test_a_crash_before_the_first_checkpoint_leaves_nothing(
    fake_config, tmp_path, after_train_steps
):
    """What the first attempt wrote of step 0 is not there twice."""
    expected = train_and_evaluate(fake_config, tmp_path / "whole")

    def crash(state, metrics):
        raise RuntimeError("crash")

    after_train_steps(crash)
    with pytest.raises(RuntimeError, match="crash"):
        train_and_evaluate(fake_config, tmp_path / "again")
    assert [line["step"] for line in journal(tmp_path / "again")] == [0]
    after_train_steps(None)
    state = train_and_evaluate(fake_config, tmp_path / "again")
    assert_same_run(state, tmp_path / "again", expected, tmp_path / "whole")


def test_resuming_with_another_config_is_refused(fake_config, tmp_path):
    fake_config.num_train_steps = 20
    train_and_evaluate(fake_config, tmp_path)
    fake_config.update(num_train_steps=40, seed=1, hidden_sizes=(8,), log_every_steps=5)
    with pytest.raises(UserError) as error:
        train_and_evaluate(fake_config, tmp_path)
    assert "config.seed: 1 here, 0 there" in str(error.value)
    assert "config.hidden_sizes: (8,) here, (16,) there" in str(error.value)
    assert "log_every_steps" not in str(error.value)


def test_a_run_of_an_earlier_version_is_resumed(fake_config, tmp_path):
    """Its manifests lack what this version added, and its config lacks a field."""

    def age(content):
        del content["run_id"], content["journal_sha256"], content["config"]["grad_clip_norm"]

    train_and_evaluate(fake_config, tmp_path / "resumed")
    for step in (20, 40):
        edit_manifest(tmp_path / f"resumed/checkpoints/{step}/default", age)
    (tmp_path / "resumed/run_id").unlink()
    assert restoring.restore(tmp_path / "resumed").config.grad_clip_norm == 0.0
    fake_config.num_train_steps = 60
    state = train_and_evaluate(fake_config, tmp_path / "resumed")
    expected = train_and_evaluate(fake_config, tmp_path / "whole")
    assert_same_run(state, tmp_path / "resumed", expected, tmp_path / "whole")


def test_a_checkpoint_that_does_not_belong_here_is_refused(fake_config, tmp_path):
    """Also if it is not the newest; and nothing is moved, cut or written."""
    train_and_evaluate(fake_config, tmp_path / "run")
    fake_config.num_train_steps = 20
    train_and_evaluate(fake_config, tmp_path / "other")
    own, aside = tmp_path / "run/checkpoints/20", tmp_path / "aside"
    own.rename(aside)
    for source, edit, message in (
        (tmp_path / "other/checkpoints/20", lambda content: None, "is not of this run"),
        (aside, lambda content: content["config"].update(cutout=0.5), "config.cutout: there"),
        (aside, lambda content: content.update(shards=4), "shards"),
    ):
        edit_manifest(shutil.copytree(source, own) / "default", edit)
        before = contents(tmp_path)
        for num_train_steps in (40, 60):
            fake_config.num_train_steps = num_train_steps
            with pytest.raises(UserError, match=rf"checkpoint of step 20 .*{message}") as error:
                train_and_evaluate(fake_config, tmp_path / "run")
            assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=message):
            restoring.restore(tmp_path / "run", "20")
        assert contents(tmp_path) == before
        shutil.rmtree(own)

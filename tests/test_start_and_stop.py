"""Runs that start from another run, freeze parameters, accumulate gradients, stop early."""

import json
import re

import jax
import numpy as np
import pytest

from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.runtime.errors import UserError
from mnist_jax.runtime.saved_arrays import leaves_by_name
from mnist_jax.train_loop import train_and_evaluate
from tests import jobs
from tests.test_resume import assert_same_run
from tests.workdirs import contents, journal


@pytest.fixture
def source(fake_config, tmp_path):
    """A run of 40 steps."""
    train_and_evaluate(fake_config, tmp_path / "source")
    return tmp_path / "source"


def test_a_run_starts_from_the_best_checkpoint_of_another(
    source, fake_config, tmp_path, capsys
):
    with Checkpoints(source) as checkpoints:
        step = best_step(checkpoints.intact_manifests())
        found = checkpoints.read_variables(step)
    fake_config.update(init_from=str(source), trainable="softmax", num_train_steps=20, seed=5)
    state = train_and_evaluate(fake_config, tmp_path / "run")
    variables = leaves_by_name({"params": state.params})
    for name, value in found.items():  # What is frozen is still that of the source.
        assert (variables[name] == value).all() == ("softmax" not in name)
    with Checkpoints(tmp_path / "run") as checkpoints:
        record = checkpoints.manifest(20).init_from
    run_id = (source / "run_id").read_text().strip()
    assert record == {"workdir": str(source), "run_id": run_id, "step": step, "skipped": []}
    assert capsys.readouterr().err == ""
    # The source is not needed any more.
    source.rename(tmp_path / "gone")
    fake_config.num_train_steps = 40
    assert int(train_and_evaluate(fake_config, tmp_path / "run").step) == 40
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.manifest(40).init_from == record


def test_each_member_starts_from_a_single_run_and_what_differs_is_listed(
    source, fake_config, tmp_path, capsys
):
    fake_config.update(init_from=str(source), num_seeds=2, hidden_sizes=(16, 7), trainable="x2")
    fake_config.trainable = "hidden2|softmax"
    state = train_and_evaluate(fake_config, tmp_path / "run")
    kernels = np.asarray(state.params["hidden1"]["kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (state.params["hidden2"]["kernel"][0] != state.params["hidden2"]["kernel"][1]).any()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "WARNING: config.init_from: skipped params/hidden2/bias - there, (7,) here; "
        "params/hidden2/kernel - there, (16, 7) here; "
        "params/softmax_linear/kernel (16, 10) there, (7, 10) here"
    )


def test_an_unsuitable_source_is_refused_in_one_line(source, fake_config, tmp_path):
    fake_config.update(init_from=str(tmp_path / "nothing"))
    with pytest.raises(
        UserError, match=r"^config.init_from: .*nothing contains no checkpoints"
    ):
        train_and_evaluate(fake_config, tmp_path / "run")
    fake_config.update(init_from=str(source), model="cnn", hidden_sizes=(128, 32))
    with pytest.raises(UserError, match=r"^config.init_from: .*: nothing suits \(coll"):
        train_and_evaluate(fake_config, tmp_path / "run")
    for path in (source / "checkpoints").rglob("d/*"):
        first, *others = path.read_bytes()
        path.write_bytes(bytes([first ^ 1, *others]))
    fake_config.update(model="mlp", hidden_sizes=(16,))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"^config.init_from: .* is damaged") as error:
        train_and_evaluate(fake_config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_frozen_parameters_have_no_optimizer_state(fake_config, tmp_path):
    fake_config.update(optimizer="adam", trainable="softmax_linear/kernel")
    state = train_and_evaluate(fake_config, tmp_path)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert sizes == [160, 160]  # The two moments of one kernel.


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_steps_are_the_steps_of_a_larger_batch(fake_config, tmp_path, optimizer):
    """With a warm-up and a cosine: both count updates, and so does the reported rate."""
    fake_config.update(optimizer=optimizer, schedule="cosine", warmup_steps=3)
    fake_config.update(
        batch_size=60, num_train_steps=20, log_every_steps=5, eval_every_steps=20
    )
    once = train_and_evaluate(fake_config, tmp_path / "once")
    fake_config.update(batch_size=20, num_train_steps=60, log_every_steps=15)
    fake_config.update(accumulate_steps=3, eval_every_steps=60)
    accumulated = train_and_evaluate(fake_config, tmp_path / "accumulated")
    assert int(accumulated.step) == 60
    compare = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)  # noqa: E731
    jax.tree.map(compare, once.params, accumulated.params)
    rates = [
        {
            line["step"] // k: line.get("batch/learning_rate")
            for line in journal(tmp_path / name)
        }
        for name, k in (("once", 1), ("accumulated", 3))
    ]
    # Step 15 is the last of update 5, which had the rate of four completed updates.
    assert rates[0] == rates[1]


@pytest.fixture
def stopping(fake_config):
    """Evaluations that are soon no better: the learning rate falls to almost nothing."""
    fake_config.update(learning_rate=0.05, schedule="step", drop_steps=(12,), drop_factor=1e-12)
    fake_config.update(num_train_steps=200, eval_every_steps=5, early_stopping_evals=3)
    fake_config.update(checkpoint_every_steps=4, steps_per_call=3, keep_checkpoints=50)
    return fake_config


def test_training_stops_early_at_the_same_step_also_if_it_is_resumed(
    stopping, tmp_path, capsys, after_train_steps
):
    whole = train_and_evaluate(stopping, tmp_path / "whole")
    step = int(whole.step)
    values = [
        (line["step"], line["validation/accuracy"])
        for line in journal(tmp_path / "whole")
        if line["step"] and "validation/accuracy" in line
    ]
    best = max(values, key=lambda pair: (pair[1], -pair[0]))
    assert values[-1][0] == step == best[0] + 15 < 200
    printed = capsys.readouterr().out
    reason = (
        f"Stopped early at step {step}: in 3 evaluations validation accuracy was not better"
    )
    assert f"{reason} than {best[1]:.4f} at step {best[0]}\nComplete: " in printed
    assert json.loads((tmp_path / "whole/results.json").read_text())["step"] == step

    def crash(state, metrics):
        if int(state.step) >= crash.at:
            raise KeyboardInterrupt
        return state, metrics

    for crash.at in (9, 18, step - 1):
        after_train_steps(crash)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(stopping, tmp_path / "resumed")
    after_train_steps(None)
    resumed = train_and_evaluate(stopping, tmp_path / "resumed")
    assert_same_run(resumed, tmp_path / "resumed", whole, tmp_path / "whole")
    # It is complete.
    before = contents(tmp_path / "resumed/checkpoints")
    capsys.readouterr()
    again = train_and_evaluate(stopping, tmp_path / "resumed")
    assert int(again.step) == step
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"{tmp_path / 'resumed'}: complete at step {step}; nothing to train"
    )
    assert reason in printed
    assert contents(tmp_path / "resumed/checkpoints") == before


def test_the_evaluations_that_decide_may_not_change(stopping, tmp_path):
    stopping.num_train_steps = 20
    train_and_evaluate(stopping, tmp_path)
    stopping.update(num_train_steps=200, eval_every_steps=7)
    with pytest.raises(UserError, match=r"config.eval_every_steps: 7 here, 5 there"):
        train_and_evaluate(stopping, tmp_path)


def test_trackers_get_every_line_of_the_journal(fake_config, tmp_path, capsys):
    lines = []

    def fails(step, scalars):
        raise OSError("no connection")

    def track(step, scalars):
        # The journal has the line already.
        assert journal(tmp_path)[-1]["step"] == step
        lines.append({"step": step, "dataset": "fake", **scalars})

    train_and_evaluate(fake_config, tmp_path, trackers=[fails, track])
    assert lines == journal(tmp_path)
    warnings = re.findall("WARNING: a tracker is not called again: .*", capsys.readouterr().err)
    assert warnings == ["WARNING: a tracker is not called again: OSError: no connection"]


def test_a_job_stops_early_too(tmp_path):
    fields = jobs.FIELDS | {"num_train_steps": 200, "early_stopping_evals": 2}
    fields |= {"learning_rate": 0.05, "schedule": "step", "drop_steps": "(12,)"}
    fields["drop_factor"] = 1e-12
    jobs.run_alone(tmp_path / "alone", 2, fields)
    ended = jobs.run(tmp_path / "job", 2, 1, fields)
    assert "Stopped early at step " in ended[0].stdout
    steps = [journal(tmp_path / name)[-1]["step"] for name in ("alone", "job")]
    assert steps[0] == steps[1] < 200

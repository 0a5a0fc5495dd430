"""A whole run in this process: what it prints, writes and keeps."""

import contextlib
import io

import numpy as np
import pytest

from mnist_jax import train_loop
from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.runtime.errors import TrainingDivergedError
from mnist_jax.train_loop import device_calls, train_and_evaluate
from tests.conftest import create_fake_config
from tests.workdirs import contents, journal


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its workdir, its state, and the lines it printed."""
    workdir = tmp_path_factory.mktemp("finished") / "new" / "run"
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        state = train_and_evaluate(create_fake_config(), workdir)
    return workdir, state, stdout.getvalue().splitlines()


def test_the_reported_results_are_those_of_the_saved_state(finished):
    workdir, state, _ = finished
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.steps() == [20, 40]
        saved = checkpoints.restore(40, state)
    np.testing.assert_array_equal(
        saved.params["hidden1"]["kernel"], state.params["hidden1"]["kernel"]
    )
    assert int(saved.step) == 40


def test_a_complete_run_is_evaluated_and_left_alone(finished, fake_config, capsys):
    workdir, state, lines = finished
    before = contents(workdir)
    again = train_and_evaluate(fake_config, workdir)
    assert contents(workdir) == before
    printed = capsys.readouterr().out.splitlines()
    assert "complete at step 40" in printed[0]
    assert printed[1:] == lines[-10:]
    np.testing.assert_array_equal(
        again.params["hidden1"]["kernel"], state.params["hidden1"]["kernel"]
    )


def test_a_resume_of_a_complete_run_repairs_its_results(finished, fake_config):
    workdir, *_ = finished
    results = workdir / "results.json"
    content = results.read_bytes()
    results.write_bytes(content[:20])
    train_and_evaluate(fake_config, workdir)
    assert results.read_bytes() == content


def test_more_steps_continue_a_complete_run(fake_config, tmp_path):
    fake_config.num_train_steps = 20
    train_and_evaluate(fake_config, tmp_path / "run")
    fake_config.num_train_steps = 50  # Not a multiple of any interval.
    state = train_and_evaluate(fake_config, tmp_path / "run")
    assert int(state.step) == 50
    assert [line["step"] for line in journal(tmp_path / "run") if "test/loss" in line] == [
        0,
        20,
        40,
        50,
    ]
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps() == [20, 40, 50]


@pytest.mark.parametrize(("steps_per_call", "first_step"), [(1, 0), (7, 0), (100, 0), (7, 33)])
def test_device_calls_end_where_something_is_due(fake_config, steps_per_call, first_step):
    fake_config.update(
        num_train_steps=95,
        steps_per_call=steps_per_call,
        log_every_steps=10,
        eval_every_steps=25,
        checkpoint_every_steps=40,
    )
    calls = list(device_calls(fake_config, first_step))
    assert [step for call in calls for step in call] == list(range(first_step + 1, 96))
    ends = {call[-1] for call in calls}
    due = {*range(10, 95, 10), *range(25, 95, 25), *range(40, 95, 40), 95}
    assert {step for step in due if step > first_step} <= ends
    assert max(map(len, calls)) <= steps_per_call


def test_detailed_and_profiled_steps_run_alone(fake_config):
    """And the step before the profiled ones, which compiles a call of one step."""
    fake_config.update(num_train_steps=40, steps_per_call=20, log_every_steps=20)
    fake_config.update(log_histograms=True, profile_steps=(6, 8))
    lengths = [len(call) for call in device_calls(fake_config, 0)]
    assert lengths == [4, 1, 1, 1, 1, 11, 1, 19, 1]  # 5 to 8, 20 and 40.


def test_steps_per_call_changes_nothing_but_speed(fake_config, tmp_path):
    fake_config.momentum = 0.9
    runs = []
    for steps_per_call in (40, 3):
        fake_config.steps_per_call = steps_per_call
        workdir = tmp_path / str(steps_per_call)
        state = train_and_evaluate(fake_config, workdir)
        lines = journal(workdir)
        for line in lines:
            line.pop("batch/steps_per_second", None)
        runs.append((lines, np.asarray(state.params["hidden1"]["kernel"]).tobytes()))
    assert runs[0] == runs[1]


def test_the_best_and_the_newest_checkpoints_are_kept(fake_config, tmp_path, monkeypatch):
    accuracies = iter([0.0, 0.1, 0.5, 0.3, 0.9, 0.2, 0.4, 0.6, 0.7])
    real_evaluate = train_loop.evaluate

    def evaluate(*args, **kwargs):
        results, logits = real_evaluate(*args, **kwargs)
        better = results["validation"] | {"accuracy": next(accuracies)}
        return results | {"validation": better}, logits

    monkeypatch.setattr(train_loop, "evaluate", evaluate)
    fake_config.update(eval_every_steps=5, checkpoint_every_steps=5, keep_checkpoints=2)
    train_and_evaluate(fake_config, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [20, 35, 40]
        assert best_step(checkpoints.intact_manifests()) == 20


def test_a_checkpoint_between_evaluations_is_not_called_best(fake_config, tmp_path):
    fake_config.update(eval_every_steps=20, checkpoint_every_steps=5, keep_checkpoints=1)
    train_and_evaluate(fake_config, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert best_step(checkpoints.intact_manifests()) in (20, 40)
        assert checkpoints.manifest(40).best is not None


def test_divergence_stops_at_the_exact_step(fake_config, tmp_path):
    fake_config.update(
        learning_rate=0.01, num_train_steps=200, checkpoint_every_steps=10, hidden_sizes=()
    )
    train_and_evaluate(fake_config, tmp_path / "fine")
    # The same steps one at a time tell where the loss leaves the finite numbers.
    fake_config.update(optimizer="sgd", momentum=0.0, learning_rate=1e37, log_every_steps=1)
    fake_config.update(steps_per_call=1, eval_every_steps=200, checkpoint_every_steps=200)
    with pytest.raises(TrainingDivergedError) as one_by_one:
        train_and_evaluate(fake_config, tmp_path / "one")
    fake_config.update(steps_per_call=100, log_every_steps=100)
    with pytest.raises(TrainingDivergedError) as at_once:
        train_and_evaluate(fake_config, tmp_path / "many")
    bad_step = 1 + max(line["step"] for line in journal(tmp_path / "one"))
    for error in (one_by_one, at_once):
        assert f"at step {bad_step};" in str(error.value)
        assert "last good checkpoint: none;" in str(error.value)
        assert error.value.exit_code == 1
    for name in ("one", "many"):
        assert not list((tmp_path / name / "checkpoints").iterdir())


def test_divergence_names_the_last_good_checkpoint(fake_config, tmp_path, after_train_steps):
    fake_config.update(num_train_steps=20)
    train_and_evaluate(fake_config, tmp_path)
    fake_config.update(num_train_steps=60)

    def diverge(state, metrics):
        if int(state.step) == 50:
            metrics["loss"] = metrics["loss"].at[4].set(np.inf)
        return state, metrics

    after_train_steps(diverge)
    with pytest.raises(TrainingDivergedError, match=r"inf at step 45; last good .* step 40"):
        train_and_evaluate(fake_config, tmp_path)
    after_train_steps(None)
    # The good steps are saved, and the run can be resumed from them.
    assert [line["step"] for line in journal(tmp_path)][-2:] == [40, 40]
    assert int(train_and_evaluate(fake_config, tmp_path).step) == 60


def test_a_state_that_is_not_finite_is_not_saved(fake_config, tmp_path, after_train_steps):
    def break_a_unit(state, metrics):
        bias = state.params["hidden1"]["bias"].at[0].set(-np.inf)  # A dead unit: finite loss.
        params = state.params | {"hidden1": state.params["hidden1"] | {"bias": bias}}
        return state.replace(params=params), metrics

    after_train_steps(break_a_unit)
    with pytest.raises(
        TrainingDivergedError, match="params/hidden1/bias is not finite at step 20"
    ):
        train_and_evaluate(fake_config, tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())

"""A whole run in this process: what it prints, writes and keeps."""

import contextlib
import io
import json
import re
from typing import NoReturn

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from mnist_jax import train_loop
from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.data import builtin
from mnist_jax.runtime.errors import DatasetUnavailableError, TrainingDivergedError, UserError
from mnist_jax.train_loop import device_calls, train_and_evaluate
from tests.conftest import create_fake_config
from tests.workdirs import contents, curves, journal

STEP_LINE = re.compile(r"Step (\d+): loss = (\d+\.\d\d) \([\d,]+ steps/s\)")
SPLITS = {"Training": 2000, "Validation": 500, "Test": 500}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its workdir, its state, and the lines it printed."""
    workdir = tmp_path_factory.mktemp("finished") / "new" / "run"
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        state = train_and_evaluate(create_fake_config(), workdir)
    return workdir, state, stdout.getvalue().splitlines()


def test_it_prints_the_tutorials_lines(finished):
    workdir, _, lines = finished
    assert str(workdir) in lines[0]
    assert "fake" in lines[0]
    steps = [int(match[1]) for line in lines if (match := STEP_LINE.fullmatch(line))]
    assert steps == [10, 20, 30, 40]
    for step in (20, 40):
        start = lines.index(next(x for x in lines if x.startswith(f"Step {step}:"))) + 1
        block = lines[start : start + 6]
        for i, (title, count) in enumerate(SPLITS.items()):
            assert block[2 * i] == f"{title} Data Eval: [fake]"
            result = re.fullmatch(
                rf"  Num examples: {count}  Num correct: (\d+)  Precision @ 1: (0\.\d{{4}})",
                block[2 * i + 1],
            )
            assert result[2] == f"{int(result[1]) / count:.4f}"


def test_the_journal_and_tensorboard_hold_the_same_numbers(finished):
    workdir, *_ = finished
    lines = journal(workdir)
    assert {line["dataset"] for line in lines} == {"fake"}
    train = {"train/loss", "train/learning_rate", "train/steps_per_second"}
    splits = {f"{split}/accuracy" for split in ("train", "validation", "test")}
    splits |= {"train/eval_loss", "validation/loss", "test/loss"}
    written = curves(workdir)
    assert train | splits == set(written)
    for tag, points in written.items():
        expected = [(line["step"], line[tag]) for line in lines if tag in line]
        assert [step for step, _ in points] == ([10, 20, 30, 40] if tag in train else [20, 40])
        np.testing.assert_allclose(points, expected, rtol=1e-6)
    assert {value for _, value in written["train/learning_rate"]} == {np.float32(0.01)}


def test_tensorboard_shows_hparams_config_and_parameters(finished):
    workdir, *_ = finished
    events = EventAccumulator(str(workdir))
    events.Reload()
    (session,) = events.PluginTagToContent("hparams").values()
    hparams = plugin_data_pb2.HParamsPluginData.FromString(session).session_start_info.hparams
    assert hparams["learning_rate"].number_value == 0.01
    assert hparams["dataset"].string_value == "fake"
    assert hparams["hidden_sizes"].string_value == "(16,)"
    (config,) = events.Tensors("config")
    assert b"| batch_size | `30` |" in config.tensor_proto.string_val[0]
    (parameters,) = events.Tensors("parameters")
    assert b"hidden1/kernel" in parameters.tensor_proto.string_val[0]


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
    assert printed[1:] == lines[-6:]
    np.testing.assert_array_equal(
        again.params["hidden1"]["kernel"], state.params["hidden1"]["kernel"]
    )


def test_more_steps_continue_a_complete_run(fake_config, tmp_path):
    fake_config.num_train_steps = 20
    train_and_evaluate(fake_config, tmp_path / "run")
    fake_config.num_train_steps = 50  # Not a multiple of any interval.
    state = train_and_evaluate(fake_config, tmp_path / "run")
    assert int(state.step) == 50
    assert [line["step"] for line in journal(tmp_path / "run") if "test/loss" in line] == [
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


def test_steps_per_call_changes_nothing_but_speed(fake_config, tmp_path):
    fake_config.momentum = 0.9
    runs = []
    for steps_per_call in (40, 3):
        fake_config.steps_per_call = steps_per_call
        workdir = tmp_path / str(steps_per_call)
        state = train_and_evaluate(fake_config, workdir)
        lines = journal(workdir)
        for line in lines:
            line.pop("train/steps_per_second", None)
        runs.append((lines, np.asarray(state.params["hidden1"]["kernel"]).tobytes()))
    assert runs[0] == runs[1]


def test_the_best_and_the_newest_checkpoints_are_kept(fake_config, tmp_path, monkeypatch):
    accuracies = iter([0.1, 0.5, 0.3, 0.9, 0.2, 0.4, 0.6, 0.7])
    real_evaluate = train_loop.evaluate

    def evaluate(*args):
        results, logits = real_evaluate(*args)
        better = results["validation"]._replace(accuracy=next(accuracies))
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
        assert checkpoints.manifest(40).validation_accuracy is not None


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


def test_a_batch_larger_than_the_split_is_refused(fake_config, tmp_path):
    fake_config.batch_size = 2001
    with pytest.raises(UserError, match=r"config\.batch_size: 2001 is more than the 2000"):
        train_and_evaluate(fake_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fallback_run_names_what_it_was_trained_on(no_network, fake_config, tmp_path, capsys):
    fake_config.update(dataset="mnist", fallback_dataset="mnist_5k", num_train_steps=20)
    fake_config.data_dir = str(tmp_path / "nothing")
    train_and_evaluate(fake_config, tmp_path / "run")
    printed = capsys.readouterr()
    assert "WARNING: mnist is not available, so this run uses mnist_5k" in printed.err
    assert "Training on mnist_5k (4,000 examples; 500 to validate, 500 to test)" in printed.out
    assert printed.out.count("Data Eval: [mnist_5k]") == 3
    assert {line["dataset"] for line in journal(tmp_path / "run")} == {"mnist_5k"}
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.manifest(20).config.dataset == "mnist_5k"
    # The same command resumes with it, even if MNIST is available by now.
    fake_config.num_train_steps = 40
    assert int(train_and_evaluate(fake_config, tmp_path / "run").step) == 40
    assert (
        json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["dataset"]
        == "mnist_5k"
    )


def test_a_run_that_exists_never_falls_back(fake_config, tmp_path, monkeypatch, capsys):
    train_and_evaluate(fake_config, tmp_path / "run")
    capsys.readouterr()
    make_fake = builtin.make_fake
    monkeypatch.setattr(builtin, "make_fake", unavailable)
    fake_config.fallback_dataset = "mnist_5k"
    with pytest.raises(DatasetUnavailableError, match="gone since"):
        train_and_evaluate(fake_config, tmp_path / "run")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(builtin, "make_fake", make_fake)
    train_and_evaluate(fake_config, tmp_path / "run")


def unavailable(seed: int) -> NoReturn:
    raise DatasetUnavailableError("gone since")

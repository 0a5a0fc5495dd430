"""What is learned is a value that travels with the run."""

import dataclasses
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax import restoring
from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.configs import default
from mnist_jax.data.builtin import make_fake
from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.runtime.errors import UserError
from mnist_jax.tasks import (
    TASKS,
    Classification,
    Task,
    create_task,
    is_last,
    rate,
    update_best,
)
from mnist_jax.train_loop import train_and_evaluate
from tests.test_resume import assert_same_run
from tests.workdirs import contents, curves, journal

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (400, 8, 8), np.uint8)
COLUMNS = RNG.normal(size=(400, 20)).astype(np.float32)


class Regression(Task):
    best = "mae", "min"

    def loss(self, outputs, batch):
        return optax.squared_error(outputs[:, 0], batch["label"])

    def metrics(self, outputs, batch):
        return {"mae": abs(outputs[:, 0] - batch["label"])}

    def summarize(self, sums, count):
        return {"rmse": float(np.sqrt(sums["loss"] / count))}


class SeveralLabels(Task):
    best = "exact", "max"

    def loss(self, outputs, batch):
        return optax.sigmoid_binary_cross_entropy(outputs, batch["label"]).mean(axis=-1)

    def metrics(self, outputs, batch):
        return {"exact": ((outputs > 0) == batch["label"]).all(axis=-1)}


DATASETS = {
    "regression": Dataset.from_splits(
        "brightness", (), {"train": Split(IMAGES, IMAGES.mean(axis=(1, 2)) / 64)}
    ),
    "several labels": Dataset.from_splits(
        "halves",
        ("top", "left"),
        {
            "train": Split(
                IMAGES,
                np.stack([IMAGES[:, :4].mean((1, 2)), IMAGES[:, :, :4].mean((1, 2))], 1) > 127,
            )
        },
    ),
    "table": Dataset.from_splits(
        "table", ("low", "high"), {"train": Split(COLUMNS, COLUMNS[:, 3] > 0)}
    ),
    "float images": Dataset.from_splits(
        "floats",
        ("dark", "bright"),
        {"train": Split(IMAGES / np.float32(255), COLUMNS[:, 0] > 0)},
    ),
}
TASK_OF = {
    "regression": Regression(),
    "several labels": SeveralLabels(),
    "table": Classification(),
    "float images": Classification(),
}


def test_label_smoothing_is_in_the_loss_of_training_and_evaluation():
    outputs = jnp.array([[2.0, 0.0, -1.0]])
    batch = {"label": jnp.array([0])}
    log_p = np.log(np.exp(outputs) / np.exp(outputs).sum())
    expected = -(log_p @ np.array([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]))
    np.testing.assert_allclose(Classification(0.1).loss(outputs, batch), expected, rtol=1e-6)
    np.testing.assert_allclose(Classification().loss(outputs, batch), -log_p[:, 0], rtol=1e-6)


def labelled(labels, class_names=("a", "b", "c")) -> Dataset:
    labels = np.asarray(labels)
    labels = labels.astype(np.int32 if labels.dtype == np.int64 else np.float32)
    images = np.zeros((len(labels), 2, 2), np.uint8)
    sizes = {"train": len(labels), "validation": 0, "test": 0}
    return Dataset("mine", class_names, Split(images, labels), sizes)


@pytest.mark.parametrize(
    ("labels", "class_names", "message"),
    [
        ([0.0, 1.0], "ab", r"labels are float32\[2\], expected an integer each"),
        ([[0], [1]], "ab", r"labels are int32\[2, 1\], expected an integer each"),
        ([0, 1], "", "labels from 0 to 1, expected classes 0, 1"),
        ([-1, 1], "ab", "labels from -1 to 1, expected 0 to 1: one of 2 classes"),
        ([0, 2], "ab", "labels from 0 to 2, expected 0 to 1: one of 2 classes"),
    ],
)
def test_a_classification_has_a_label_of_its_classes_each(labels, class_names, message):
    with pytest.raises(ValueError, match=message):
        Classification().check(labelled(labels, class_names))
    Classification().check(labelled([0, 1], "ab"))


def test_the_outputs_are_the_classes_or_the_numbers_of_a_label():
    assert Classification().num_outputs(labelled([0, 1, 1, 0])) == 3
    for shape, number in (((4,), 1), ((4, 2), 2), ((4, 2, 3), 6)):
        assert Task().num_outputs(labelled(np.zeros(shape))) == number


def test_the_accuracy_is_the_share_of_right_classes():
    outputs = jnp.array([[1.0, 3.0, 2.0], [5.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    metrics = Classification().metrics(outputs, {"label": jnp.array([1, 0, 1])})
    assert metrics["accuracy"].tolist() == [True, True, False]
    summary = Classification().summarize({"accuracy": 2.0, "loss": 1.5}, 3)
    assert summary == {"num_correct": 2}
    assert type(summary["num_correct"]) is int


def test_a_committee_has_the_mean_of_outputs_or_of_probabilities():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(Task().combine(logits), logits.mean(axis=0), rtol=1e-6)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = np.log(probabilities.mean(axis=0))
    np.testing.assert_allclose(Classification().combine(logits), expected, rtol=1e-5)


def test_a_class_is_described_with_two_others_of_at_least_one_percent():
    rows = np.array([[0.009, 0.2, 0.011, 0.78], [0.4, 0.3, 0.2, 0.1], [0, 0, 1, 0]])
    with np.errstate(divide="ignore"):
        described = Classification().describe(np.log(rows).astype(np.float32), "abcd")
    assert [row.pop("text") for row in described] == [
        "d (78.0%), or b (20.0%), c (1.1%)",
        "a (40.0%), or b (30.0%), c (20.0%)",
        "c (100.0%)",
    ]
    np.testing.assert_allclose([row.pop("probabilities") for row in described], rows, atol=1e-6)
    assert described == [{"label": i, "class": "abcd"[i]} for i in (3, 0, 2)]
    # Equally probable ones in their order; a hundredth is enough.
    (row,) = Classification().describe(np.zeros((1, 100)), [*map(str, range(100))])
    assert row["text"] == "0 (1.0%), or 1 (1.0%), 2 (1.0%)"


def test_other_outputs_are_described_as_numbers():
    outputs = np.array([[[1.23456], [-2.0]], [[0.5], [0.25]]])
    assert Task().describe(outputs, ()) == [
        {"text": "1.2346 -2.0000", "outputs": [1.23456, -2.0]},
        {"text": "0.5000 0.2500", "outputs": [0.5, 0.25]},
    ]


ONE = {"num_examples": 9, "accuracy": 0.75, "loss": 0.5, "num_correct": 7}
TWO = {"num_examples": 9, "loss": np.array([1.0, 3.0]), "error": np.array([0.5, 0.5])}


@pytest.mark.parametrize(
    ("task", "dataset", "result", "lines"),
    [
        (
            Classification(),
            "mnist",
            ONE,
            ["Test Data Eval:", "  Num examples: 9  Num correct: 7  Precision @ 1: 0.7500"],
        ),
        (
            Classification(),
            "mine",
            ONE | {"f1": 0.25},
            [
                "Test Data Eval: [mine]",
                "  Num examples: 9  Num correct: 7  Precision @ 1: 0.7500  f1: 0.2500",
            ],
        ),
        (
            Classification(),
            "mnist",
            {"num_examples": 9, "accuracy": np.array([0.5, 1]), "num_correct": np.array([4, 9])}
            | {"loss": np.array([1.0, 3.0])},
            [
                "Test Data Eval:",
                "  Num examples: 9  Num correct: 6 ± 4  Precision @ 1: 0.7500 ± 0.3536",
            ],
        ),
        (
            Task(),
            "mine",
            TWO | {"committee_loss": 1.0, "committee_error": 0.125},
            [
                "Test Data Eval: [mine]",
                "  Num examples: 9  error: 0.5000 ± 0.0000  loss: 2.0000 ± 1.4142 (2 seeds)",
                "  Their committee: error: 0.1250  loss: 1.0000",
            ],
        ),
    ],
)
def test_a_report_has_the_tutorials_words_or_the_names_of_the_metrics(
    task, dataset, result, lines
):
    before = dict(result)
    assert task.report("test", dataset, result).split("\n") == lines
    assert result == before


@pytest.mark.parametrize(("mode", "better", "worse"), [("max", 0.6, 0.4), ("min", 0.4, 0.6)])
def test_the_best_evaluation_is_the_first_of_the_best_value(mode, better, worse):
    ratings = [{"name": "x", "mode": mode, "value": v} for v in (0.5, worse, 0.5, better)]
    best, found = None, []
    for step, rating in enumerate(ratings, start=1):
        best = update_best(best, step, rating)
        found.append((best["step"], best["evals"], best["value"]))
    assert found == [(1, 0, 0.5), (1, 1, 0.5), (1, 2, 0.5), (4, 0, better)]


def test_a_result_is_rated_by_its_best_metric():
    result = {"accuracy": np.array([0.25, 0.75]), "loss": np.nan}
    rating = {"name": "accuracy", "mode": "max", "value": 0.5}
    assert rate(Classification(), result) == rating
    assert type(rate(Classification(), result)["value"]) is float  # For JSON.
    assert rate(Task(), result) is None


def test_training_ends_with_its_last_step_or_without_patience(fake_config):
    fake_config.num_train_steps = 40
    worse = {"evals": 3}
    ends = lambda step, best: is_last(fake_config, step, best)  # noqa: E731
    assert [ends(step, worse) for step in (39, 40, 41)] == [False, True, True]
    fake_config.early_stopping_evals = 3
    assert [ends(10, best) for best in (None, {"evals": 2}, worse)] == [False, False, True]


def test_a_field_that_the_task_ignores_is_refused_but_in_a_saved_config(fake_config):
    fake_config.label_smoothing = 0.1
    assert create_task(fake_config) == Classification(0.1)
    fake_config.task = f"{__name__}:Regression"
    with pytest.raises(UserError, match=r"label_smoothing: 0\.1 is ignored by config.task="):
        create_task(fake_config)
    assert isinstance(create_task(fake_config, is_saved=True), Task)


@pytest.fixture
def config(fake_config):
    fake_config.update(
        hidden_sizes=(128, 32), batch_size=20, checkpoint_every_steps=10, eval_every_steps=10
    )
    return fake_config


@pytest.mark.parametrize("examples", ["device", "host"])
@pytest.mark.parametrize("name", DATASETS)
def test_examples_of_any_kind_are_trained_resumed_to_the_bit_and_restored(
    name, examples, config, tmp_path
):
    config.examples = examples
    arguments = {"dataset": DATASETS[name], "task": TASK_OF[name]}
    whole = train_and_evaluate(config, tmp_path / "whole", **arguments)
    config.num_train_steps = 20
    train_and_evaluate(config, tmp_path / "resumed", **arguments)
    config.num_train_steps = 40
    resumed = train_and_evaluate(config, tmp_path / "resumed", **arguments)
    assert_same_run(resumed, tmp_path / "resumed", whole, tmp_path / "whole")
    is_own = TASK_OF[name] != Classification()
    task = TASK_OF[name] if is_own else None
    model = restoring.restore(tmp_path / "whole", "best", task=task)
    images = DATASETS[name].splits["test"].image
    outputs = model.outputs(images)
    assert outputs.shape == (len(images), TASK_OF[name].num_outputs(DATASETS[name]))
    rows = model.predict(images)
    assert len(rows) == len(images)
    json.dumps(rows)


def test_a_metric_of_a_task_appears_wherever_results_do(config, tmp_path, capsys):
    train_and_evaluate(config, tmp_path, dataset=DATASETS["regression"], task=Regression())
    results = json.loads((tmp_path / "results.json").read_text())["splits"]["test"]
    assert results.keys() == {"num_examples", "mae", "rmse", "loss"}
    assert results["rmse"] ** 2 == pytest.approx(results["loss"])
    line = f"  Num examples: 31  mae: {results['mae']:.4f}  rmse: {results['rmse']:.4f}  loss: "
    assert f"Test Data Eval: [brightness]\n{line}" in capsys.readouterr().out
    assert journal(tmp_path)[-1]["test/mae"] == results["mae"]
    assert curves(tmp_path)["test/all/mae"][-1][0] == 40
    with Checkpoints(tmp_path) as checkpoints:
        errors = {line["step"]: line.get("validation/mae") for line in journal(tmp_path)}
        best = best_step(checkpoints.intact_manifests())
        assert errors[best] == min(x for step, x in errors.items() if step)


def test_several_seeds_of_any_task_have_a_committee(config, tmp_path, capsys):
    config.num_seeds = 3
    train_and_evaluate(config, tmp_path, dataset=DATASETS["regression"], task=Regression())
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())["splits"]["test"]
    assert (
        f"  mae: {np.mean(results['mae']):.4f} ± {np.std(results['mae'], ddof=1):.4f}"
        in printed
    )
    assert f"  Their committee: mae: {results['committee_mae']:.4f}" in printed
    model = restoring.restore(tmp_path, task=Regression())
    images, labels = DATASETS["regression"].splits["test"]
    each = [
        restoring.restore(tmp_path, task=Regression(), member=k).outputs(images)
        for k in range(3)
    ]
    np.testing.assert_allclose(model.outputs(images), np.mean(each, axis=0), rtol=1e-5)
    mean_error = np.abs(np.asarray(model.outputs(images))[:, 0] - labels).mean()
    assert results["committee_mae"] == pytest.approx(mean_error, rel=1e-5)


class Scalar(Regression):
    def loss(self, outputs, batch):
        return super().loss(outputs, batch).mean()


class Broadcast(Regression):
    def loss(self, outputs, batch):
        return (outputs - batch["label"]) ** 2  # [n, 1] - [n] is [n, n].


class WithoutItsBest(Regression):
    best = "mse", "min"


@dataclasses.dataclass(frozen=True)
class WithAList(Regression):
    weights: list = dataclasses.field(default_factory=list)


class ReservedName(Regression):
    def metrics(self, outputs, batch):
        return super().metrics(outputs, batch) | {"num_examples": outputs[:, 0]}


class OtherForm(Regression):
    def combine(self, outputs):
        return outputs[0, :1]


class FailingCheck(Regression):
    def check(self, dataset):
        raise TypeError("by intention")


class FourOutputs(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(4)(images.reshape(len(images), -1) / 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": Scalar()}, r"task: Scalar: loss is \[\], expected \[20\]"),
        ({"task": Broadcast()}, r"task: Broadcast: .*(20, 1).*|loss is \[20, 20\]"),
        (
            {"task": WithoutItsBest()},
            r"task: WithoutItsBest: best is \('mse', 'min'\), expected",
        ),
        ({"task": WithAList()}, "task: WithAList: .*unhashable"),
        ({"task": Classification()}, "dataset: brightness: labels are float32"),
        ({"task": ReservedName()}, "task: ReservedName: 'num_examples' is reserved"),
        ({"task": OtherForm()}, "task: OtherForm: combine must return an array"),
        ({"task": FailingCheck()}, "dataset: brightness: by intention"),
        ({"task": Regression(), "model": FourOutputs()}, r"FourOutputs: returns \(20, 4\)"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_in_one_line(config, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        train_and_evaluate(
            config, tmp_path / "run", dataset=DATASETS["regression"], **arguments
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_with_an_own_task_is_used_only_with_it(config, tmp_path):
    arguments = {"dataset": DATASETS["regression"]}
    train_and_evaluate(config, tmp_path, task=Regression(), **arguments)
    before = contents(tmp_path)
    with pytest.raises(
        UserError, match=r"task: the run has its own, .*:Regression; add --task"
    ):
        restoring.restore(tmp_path)
    with pytest.raises(UserError, match=r"task: WithAList: .*unhashable"):
        restoring.restore(tmp_path, task=WithAList())
    with pytest.raises(UserError, match=r"config.task: 'WithAList' here, 'Regression' there"):
        train_and_evaluate(config, tmp_path, task=WithAList(), **arguments)
    assert contents(tmp_path) == before


def test_the_default_task_needs_no_name():
    assert TASKS[default.get_config().task]() == Classification()


class Ratios(Regression):
    """Figures of merit of which some have no value at the beginning, or of other types."""

    best = "r2", "max"

    def metrics(self, outputs, batch):
        label = batch["label"]
        return {"error2": (outputs[:, 0] - label) ** 2, "y": label, "y2": label**2}

    def summarize(self, sums, count):
        return {
            "r2": 1 - sums["error2"] / (sums["y2"] - sums["y"] ** 2 / count),
            "nothing": sums["y"] * 0 / (0 * sums["y"]),
            "root": jnp.sqrt(sums["y2"]),
        }


def test_what_is_no_mean_may_be_any_number_or_have_none(config, tmp_path):
    train_and_evaluate(config, tmp_path, dataset=DATASETS["regression"], task=Ratios())
    last = journal(tmp_path)[-1]
    assert "test/nothing" not in last
    assert "test/nothing" not in curves(tmp_path)
    assert (
        last["test/r2"]
        == json.loads((tmp_path / "results.json").read_text())["splits"]["test"]["r2"]
    )
    assert Checkpoints(tmp_path).manifest(40).best["value"] == last["validation/r2"]


class TopTwo(Classification):
    """Without the accuracy, which the printed line leaves out then."""

    best = "top_2", "max"

    def metrics(self, outputs, batch):
        return {"top_2": (jnp.argsort(outputs)[:, -2:] == batch["label"][:, None]).any(axis=1)}


def test_a_classification_may_have_other_metrics(config, tmp_path, capsys):
    train_and_evaluate(config, tmp_path, dataset=DATASETS["table"], task=TopTwo())
    assert (
        "Test Data Eval: [table]\n  Num examples: 30  top_2: 1.0000\n"
        in capsys.readouterr().out
    )


def test_a_setting_that_a_given_object_ignores_is_refused(config, tmp_path):
    config.update(hidden_sizes=(7,))
    with pytest.raises(UserError, match=r"config.hidden_sizes: \(7,\) is ignored by the given"):
        train_and_evaluate(
            config, tmp_path / "run", dataset=DATASETS["table"], model=nn.Dense(2)
        )
    assert not (tmp_path / "run").exists()


class mlp(nn.Module):  # noqa: N801 - as in the table.
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(10)(images.reshape(len(images), -1) / 255)


def test_an_own_model_named_as_ours_is_another_one(fake_config, tmp_path):
    fake_config.hidden_sizes = (128, 32)
    for name, first, second in (("a", None, mlp()), ("b", mlp(), None)):
        train_and_evaluate(fake_config, tmp_path / name, model=first)
        before = contents(tmp_path)
        with pytest.raises(UserError, match=r"its run's model is .*mlp.* there, .*mlp.* here"):
            train_and_evaluate(fake_config, tmp_path / name, model=second)
        assert contents(tmp_path) == before


def test_integers_of_any_type_are_augmented_alike(fake_config, tmp_path):
    fake_config.update(augmentation="affine")
    fake = make_fake(0)
    losses = []
    for dtype in (np.uint8, np.int32):
        splits = {n: Split(x.image.astype(dtype), x.label) for n, x in fake.splits.items()}
        dataset = Dataset.from_splits("fake", fake.class_names, splits)
        train_and_evaluate(fake_config, tmp_path / np.dtype(dtype).name, dataset=dataset)
        lines = journal(tmp_path / np.dtype(dtype).name)
        losses.append([line.get("batch/loss") for line in lines])
    assert losses[0] == losses[1]

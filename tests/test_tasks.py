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
from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.runtime.errors import UserError
from mnist_jax.tasks import TASKS, Classification, Task
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


@pytest.fixture
def config(fake_config):
    fake_config.update(batch_size=20, checkpoint_every_steps=10, eval_every_steps=10)
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
    mean_error = abs(model.outputs(images)[:, 0] - labels).mean()
    assert results["committee_mae"] == pytest.approx(mean_error, rel=1e-5)


def test_label_smoothing_is_in_the_loss_of_training_and_evaluation():
    outputs = jnp.array([[2.0, 0.0, -1.0]])
    batch = {"label": jnp.array([0])}
    log_p = np.log(np.exp(outputs) / np.exp(outputs).sum())
    expected = -(log_p @ np.array([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]))
    np.testing.assert_allclose(Classification(0.1).loss(outputs, batch), expected, rtol=1e-6)
    np.testing.assert_allclose(Classification().loss(outputs, batch), -log_p[:, 0], rtol=1e-6)


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
        ({"task": Regression(), "model": FourOutputs()}, r"FourOutputs: returns \[20, 4\]"),
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
    with pytest.raises(UserError, match=r"config.task: 'WithAList' here, 'Regression' there"):
        train_and_evaluate(config, tmp_path, task=WithAList(), **arguments)
    assert contents(tmp_path) == before


def test_the_default_task_needs_no_name():
    assert TASKS[default.get_config().task]() == Classification()

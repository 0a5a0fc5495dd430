import jax.numpy as jnp
import numpy as np

from mnist_jax.data.datasets import Split
from mnist_jax.eval_step import evaluate, summarize
from mnist_jax.input_pipeline import DeviceExamples, HostExamples, eval_indices
from mnist_jax.tasks import Classification, Task
from tests.states import create_state
from tests.test_train_step import IMAGES, LABELS, cross_entropies

SIZES = {"train": 30, "validation": 7, "test": 13}


def test_every_example_of_every_split_counts_once(fake_config):
    """Also where the last batch of a split is padded, and from the host."""
    state = create_state(fake_config)
    expected = np.asarray(state.apply_fn(state.variables, IMAGES))
    losses = cross_entropies(expected, LABELS)
    for source in (DeviceExamples, HostExamples):
        results, outputs = evaluate(
            state.variables,
            state.apply_fn,
            Classification(),
            source(Split(IMAGES, LABELS)),
            eval_indices(SIZES, 9),
            keep=("validation", "test"),
        )
        assert outputs.keys() == {"validation", "test"}
        start = 0
        for split, size in SIZES.items():
            part = slice(start, start := start + size)
            if split in outputs:
                np.testing.assert_allclose(outputs[split], expected[part], rtol=1e-5, atol=1e-6)
            num_correct = (expected[part].argmax(1) == LABELS[part]).sum()
            result = results[split]
            assert (result["num_examples"], result["num_correct"]) == (size, num_correct)
            assert result["accuracy"] == num_correct / size
            np.testing.assert_allclose(result["loss"], losses[part].mean(), rtol=1e-5)


class MeanSquare(Task):
    def loss(self, outputs, batch):
        return (outputs[:, 0] - batch["label"]) ** 2

    def metrics(self, outputs, batch):
        return {"error": abs(outputs[:, 0] - batch["label"])}

    def summarize(self, sums, count):
        ratio = sums["error"] * 0 / (sums["error"] * 0)
        return {"root": np.sqrt(sums["loss"] / count), "nothing": ratio, "zero": 0}


INPUTS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
TABLE = HostExamples(Split(INPUTS, INPUTS.sum(axis=1)))


def apply(variables, inputs, *, train):
    assert not train
    return inputs @ variables


def test_a_task_decides_what_an_evaluation_reports():
    weights = jnp.array([[1.0], [1.0], [0.0]])
    results, _ = evaluate(weights, apply, MeanSquare(), TABLE, eval_indices(SIZES, 9))
    missing, result = INPUTS[37:, 2], results["test"]
    assert {name: type(value) for name, value in result.items()} == {
        "num_examples": int,
        "error": float,
        "loss": float,
        "root": float,
        "nothing": float,
        "zero": int,
    }
    np.testing.assert_allclose(result["error"], abs(missing).mean(), rtol=1e-5)
    np.testing.assert_allclose(result["root"] ** 2, (missing**2).mean(), rtol=1e-5)
    assert (np.isnan(result["nothing"]), result["zero"]) == (True, 0)


def test_several_members_have_a_result_each_and_one_of_their_committee():
    # They miss the last column once and twice to the other side: together half of it.
    weights = jnp.array([[[1.0], [1.0], [2.0]], [[1.0], [1.0], [-1.0]]])
    results, outputs = evaluate(
        weights,
        apply,
        MeanSquare(),
        TABLE,
        eval_indices(SIZES, 9),
        num_members=2,
        keep=["test"],
    )
    missing = abs(INPUTS[37:, 2]).mean()
    assert results["test"]["num_examples"] == 13
    assert isinstance(results["test"]["error"], np.ndarray)
    np.testing.assert_allclose(results["test"]["error"], [missing, 2 * missing], rtol=1e-5)
    np.testing.assert_allclose(results["test"]["committee_error"], missing / 2, rtol=1e-5)
    committee = INPUTS[37:] @ [[1.0], [1.0], [0.5]]
    np.testing.assert_allclose(outputs["test"], committee, rtol=1e-4, atol=1e-5)


def test_sums_are_exact_beyond_the_digits_of_float32():
    losses = np.array([2**25, 1, 1, 1], np.float32)
    assert summarize(Task(), {"loss": losses}) == {
        "num_examples": 4,
        "loss": (2**25 + 3) / 4,
    }

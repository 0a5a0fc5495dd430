import jax.numpy as jnp
import numpy as np

from mnist_jax.data.datasets import Split
from mnist_jax.eval_step import evaluate
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


def test_a_task_decides_what_an_evaluation_reports():
    class MeanSquare(Task):
        def loss(self, outputs, batch):
            return (outputs[:, 0] - batch["label"]) ** 2

        def metrics(self, outputs, batch):
            return {"error": abs(outputs[:, 0] - batch["label"])}

        def summarize(self, sums, count):
            return {"root": np.sqrt(sums["loss"] / count)}

    def apply(variables, inputs, train=False):
        return inputs @ variables

    inputs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    labels = inputs.sum(axis=1)
    weights = jnp.array([[1.0], [1.0], [0.0]])
    results, _ = evaluate(
        weights,
        apply,
        MeanSquare(),
        HostExamples(Split(inputs, labels)),
        eval_indices(SIZES, 9),
    )
    missing = inputs[37:, 2]
    assert results["test"].keys() == {"num_examples", "error", "loss", "root"}
    np.testing.assert_allclose(results["test"]["error"], abs(missing).mean(), rtol=1e-5)
    np.testing.assert_allclose(results["test"]["root"] ** 2, (missing**2).mean(), rtol=1e-5)

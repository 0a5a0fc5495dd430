"""The rebuilt trainer against the tutorial's program, measured in TensorFlow."""

import numpy as np
import pytest

from mnist_jax import input_pipeline, members
from mnist_jax.data.load import load_dataset
from mnist_jax.eval_step import evaluate
from mnist_jax.train_step import train_steps
from tests.states import create_state

SEEDS = 10
# Mean and sample standard deviation over 12 seeds of the tutorial's program in TensorFlow
# 2.21's graph mode: accuracy of test, validation, train; loss of test; by completed steps.
REFERENCE_SEEDS = 12
REFERENCE = {
    1000: [(0.8712, 0.0039), (0.8723, 0.0040), (0.8641, 0.0046), (0.502, 0.017)],
    2000: [(0.9019, 0.0031), (0.9038, 0.0020), (0.8972, 0.0019), (0.3495, 0.0052)],
}
REFERENCE_FIRST_LOSS = (2.307, 0.018)


def assert_same_mean(name: str, ours: np.ndarray, reference: tuple[float, float]) -> None:
    """Within two standard errors of the difference, both sides' errors combined."""
    mean, deviation = reference
    error = np.sqrt(np.var(ours, ddof=1) / len(ours) + deviation**2 / REFERENCE_SEEDS)
    z = (np.mean(ours) - mean) / error
    assert abs(z) < 2, (
        f"{name}: {np.mean(ours):.4f} against {mean:.4f}: {z:.2f} standard errors"
    )


@pytest.mark.mnist
def test_accuracies_and_losses_are_the_tutorials(mnist_config):
    dataset = load_dataset(mnist_config)
    source = input_pipeline.DeviceExamples(dataset.examples)
    eval_indices = input_pipeline.eval_indices(dataset.sizes, mnist_config.eval_batch_size)
    mnist_config.num_seeds = SEEDS
    state, results = create_state(mnist_config), {}
    for start in range(0, 2000, 100):
        steps = range(start + 1, start + 101)
        indices = members.batch_indices(mnist_config, steps, dataset.sizes["train"])
        state, metrics = train_steps(state, *source.feed(indices))
        if start == 0:
            assert_same_mean("first loss", metrics["loss"][0], REFERENCE_FIRST_LOSS)
        if steps[-1] in REFERENCE:
            r, _ = evaluate(
                state.variables,
                state.apply_fn,
                state.task,
                source,
                eval_indices,
                num_members=SEEDS,
            )
            accuracies = [r[split]["accuracy"] for split in ("test", "validation", "train")]
            results[steps[-1]] = [*accuracies, r["test"]["loss"]]
    names = ("test accuracy", "validation accuracy", "train accuracy", "test loss")
    for step, values in results.items():
        for name, ours, reference in zip(names, values, REFERENCE[step], strict=True):
            assert_same_mean(f"{name} after {step} steps", ours, reference)

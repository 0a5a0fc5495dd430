import numpy as np

from mnist_jax.eval_step import eval_step, evaluate
from mnist_jax.input_pipeline import eval_indices
from tests.states import create_state
from tests.test_train_step import IMAGES, LABELS, cross_entropies


def test_evaluation_counts_unmasked_examples_only(fake_config):
    state = create_state(fake_config)
    mask = np.arange(50) % 3 != 0
    indices = np.where(mask, np.arange(50), -1)
    metrics, _ = eval_step(state.variables, IMAGES, LABELS, indices, apply_fn=state.apply_fn)
    logits = np.asarray(state.apply_fn(state.variables, IMAGES))
    assert int(metrics.accuracy.count) == mask.sum()
    assert int(metrics.accuracy.total) == (logits.argmax(1) == LABELS)[mask].sum()
    np.testing.assert_allclose(
        metrics.compute()["loss"], cross_entropies(logits, LABELS)[mask].mean(), rtol=1e-6
    )


def test_every_example_of_every_split_counts_once(fake_config):
    """Also where the last batch of a split is padded."""
    state = create_state(fake_config)
    sizes = {"train": 30, "validation": 7, "test": 13}
    results, logits = evaluate(
        state.variables, state.apply_fn, (IMAGES, LABELS), eval_indices(sizes, 9)
    )
    expected = np.asarray(state.apply_fn(state.variables, IMAGES))
    losses = cross_entropies(expected, LABELS)
    start = 0
    for split, size in sizes.items():
        part = slice(start, start := start + size)
        np.testing.assert_allclose(logits[split], expected[part], rtol=1e-5, atol=1e-6)
        num_correct = (expected[part].argmax(1) == LABELS[part]).sum()
        result = results[split]
        assert (result["num_examples"], result["num_correct"]) == (size, num_correct)
        np.testing.assert_allclose(result["accuracy"], num_correct / size, rtol=1e-6)
        np.testing.assert_allclose(result["loss"], losses[part].mean(), rtol=1e-5)

import functools

import jax.numpy as jnp
import numpy as np

from mnist_jax.eval_step import eval_step, evaluate
from mnist_jax.input_pipeline import eval_indices
from mnist_jax.train_step import create_train_state
from tests.test_train_step import BATCH, IMAGES, LABELS, cross_entropies


def test_evaluation_counts_unmasked_examples_only(fake_config):
    state = create_train_state(fake_config, 10)
    mask = np.arange(50) % 3 != 0
    step = functools.partial(eval_step, state.params, apply_fn=state.apply_fn)
    metrics, _ = step(BATCH | {"mask": jnp.asarray(mask)})
    logits = np.asarray(state.apply_fn({"params": state.params}, BATCH["image"]))
    assert int(metrics.accuracy.count) == mask.sum()
    assert int(metrics.accuracy.total) == (logits.argmax(1) == LABELS)[mask].sum()
    np.testing.assert_allclose(
        metrics.compute()["loss"], cross_entropies(logits, LABELS)[mask].mean(), rtol=1e-6
    )


def test_every_example_of_every_split_counts_once(fake_config):
    """Also where the last batch of a split is padded."""
    state = create_train_state(fake_config, 10)
    sizes = {"train": 30, "validation": 7, "test": 13}
    results, logits = evaluate(
        state.params, state.apply_fn, (IMAGES, LABELS), eval_indices(sizes, 9)
    )
    expected = np.asarray(state.apply_fn({"params": state.params}, BATCH["image"]))
    losses = cross_entropies(expected, LABELS)
    start = 0
    for split, size in sizes.items():
        part = slice(start, start := start + size)
        np.testing.assert_allclose(logits[split], expected[part], rtol=1e-5, atol=1e-6)
        num_correct = (expected[part].argmax(1) == LABELS[part]).sum()
        assert results[split][:2] == (size, num_correct)
        np.testing.assert_allclose(results[split].accuracy, num_correct / size, rtol=1e-6)
        np.testing.assert_allclose(results[split].loss, losses[part].mean(), rtol=1e-5)

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mnist_jax import input_pipeline, train_loop
from mnist_jax.data.load import load_dataset
from mnist_jax.train_step import loss_fn, train_step
from tests.states import create_state


def read_histograms(logdir: Path) -> dict[tuple[str, int], np.ndarray]:
    """Rows of (left, right, count) by tag and step."""
    found = {}
    for path in sorted(logdir.glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "histograms":
                    assert (value.tag, event.step) not in found
                    shape = [dim.size for dim in value.tensor.tensor_shape.dim]
                    rows = np.frombuffer(value.tensor.tensor_content, np.float64)
                    found[value.tag, event.step] = rows.reshape(shape)
    return found


def journal(workdir: Path) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "batch/steps_per_second"} for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """The same run without and with histograms: folder and last state of each."""
    from mnist_jax.configs import default

    config = default.get_config()
    config.update(
        dataset="fake", hidden_sizes=(16,), batch_size=30, num_train_steps=20,
        steps_per_call=7, log_every_steps=10, eval_every_steps=20, eval_batch_size=300,
    )  # fmt: skip
    found = {}
    for config.log_histograms in (False, True):
        folder = tmp_path_factory.mktemp("run")
        found[config.log_histograms] = folder, train_loop.train_and_evaluate(config, folder)
    return config, found


def test_the_results_are_the_same_to_the_bit(runs):
    (off, off_state), (on, on_state) = runs[1][False], runs[1][True]
    jax.tree.map(np.testing.assert_array_equal, off_state.params, on_state.params)
    on_lines = journal(on)
    norms = [line.pop("batch/grad_norm", None) for line in on_lines]
    assert on_lines == journal(off)
    assert [norm is not None for norm in norms] == ["batch/loss" in x for x in on_lines]


def test_off_writes_none(runs):
    assert read_histograms(runs[1][False][0]) == {}


def test_on_writes_parameters_and_gradients_of_the_log_steps(runs):
    config, found = runs
    workdir, state = found[True]
    histograms = read_histograms(workdir)
    leaves = [f"{m}/{p}" for m in ("hidden1", "softmax_linear") for p in ("bias", "kernel")]
    assert set(histograms) == {
        (f"{tree}/{leaf}", step)
        for tree in ("params", "grads")
        for leaf in leaves
        for step in (10, 20)
    }
    kernel = np.asarray(state.params["hidden1"]["kernel"])
    rows = histograms["params/hidden1/kernel", 20]
    assert rows[:, 2].sum() == kernel.size
    assert rows[0, 0] == pytest.approx(kernel.min())
    assert rows[-1, 1] == pytest.approx(kernel.max())

    # The gradient of step 10 is that which made step 10: redone here by hand.
    dataset = load_dataset(config)
    state = create_state(config)
    for rows in input_pipeline.batch_indices(config.seed, range(1, 11), 30, 2000):
        old_state = state
        batch = {
            "image": jnp.asarray(dataset.splits["train"].image[rows]),
            "label": jnp.asarray(dataset.splits["train"].label[rows]),
        }
        state, _ = train_step(state, batch)
    grads, _ = jax.jit(jax.grad(loss_fn, has_aux=True))(old_state.params, old_state, batch)
    line = next(line for line in journal(workdir) if line["step"] == 10)
    assert line["batch/grad_norm"] == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
    kernel = np.asarray(grads["hidden1"]["kernel"])
    rows = histograms["grads/hidden1/kernel", 10]
    assert rows[-1, 1] == pytest.approx(kernel.max(), rel=1e-5)


def test_a_log_step_is_a_call_of_its_own(fake_config: ConfigDict):
    fake_config.log_histograms = True
    fake_config.num_train_steps = 20
    calls = [(x[0], x[-1]) for x in train_loop.device_calls(fake_config, 0)]
    assert calls == [(1, 9), (10, 10), (11, 19), (20, 20)]

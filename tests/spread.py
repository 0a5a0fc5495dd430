"""Trains on several numbers of devices without writing files, and compares the results.

    JAX_NUM_CPU_DEVICES=8 python -m tests.spread --devices 1,2,4,8 --config.num_train_steps=2000

Prints JSON, by number of devices: the SHA-256 of the state; the largest difference of its
parameters from those of the first number of devices; the number of examples of each split that
the latter classify correctly; the collective operations of the compiled step.
"""

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mnist_jax import input_pipeline, members
from mnist_jax.data.datasets import Dataset
from mnist_jax.data.load import load_dataset
from mnist_jax.eval_step import evaluate
from mnist_jax.parallel import job, sharding
from mnist_jax.train_step import train_steps
from tests.states import create_state

_CONFIG = config_flags.DEFINE_config_file(
    "config", str(Path(__file__).parent.parent / "configs" / "default.py")
)
_DEVICES = flags.DEFINE_list("devices", None, "Numbers of devices.", required=True)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "Train as a job of one process, which uses gloo."
)


def main(_: list[str]) -> None:
    config = _CONFIG.value
    with contextlib.ExitStack() as stack:
        if _COORDINATOR_ADDRESS.value:
            stack.enter_context(job.join_job(_COORDINATOR_ADDRESS.value, 1, 0, timeout=60))
        dataset = load_dataset(config)
        report = {}
        first_params = None
        for number in map(int, _DEVICES.value):
            with sharding.use_devices(config.num_seeds, jax.devices()[:number]):
                state, exchanges = train(config, dataset)
                params = jax.tree.map(np.asarray, state.params)
                first_params = first_params or params
                results, _ = evaluate(
                    sharding.put_replicated({"params": first_params}),
                    state.apply_fn,
                    state.task,
                    input_pipeline.create_source(dataset.examples, config.examples),
                    input_pipeline.eval_indices(dataset.sizes, config.eval_batch_size),
                    num_members=config.num_seeds,
                )
            leaves = jax.tree.leaves(state)
            differences = jax.tree.map(lambda a, b: abs(a - b).max(), params, first_params)
            report[number] = {
                "sha256": hashlib.sha256(
                    b"".join(np.asarray(x).tobytes() for x in leaves)
                ).hexdigest(),
                "largest_difference": float(max(jax.tree.leaves(differences))),
                "num_correct": {
                    name: np.asarray(result["num_correct"]).tolist()
                    for name, result in results.items()
                },
                "exchanges": exchanges,
            }
    print(json.dumps(report))


def train(config: ConfigDict, dataset: Dataset) -> tuple[Any, list[str]]:
    """Returns the last state, and the names of the collective operations of a step."""
    state = create_state(config)
    source = input_pipeline.create_source(dataset.examples, config.examples)

    def indices(first: int) -> np.ndarray:
        steps = range(first, min(first + config.steps_per_call, config.num_train_steps + 1))
        return members.batch_indices(config, steps, dataset.sizes["train"])

    compiled = train_steps.lower(state, *source.feed(indices(1))).compile()
    names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    exchanges = re.findall(rf" ({names})(?:-start)?\(", compiled.as_text())
    for first in range(1, config.num_train_steps + 1, config.steps_per_call):
        state, _ = train_steps(state, *source.feed(indices(first)))
    return state, exchanges


if __name__ == "__main__":
    app.run(main)

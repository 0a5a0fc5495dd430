"""Many devices of one process: the numbers of one, but for the order of the sums."""

import json
import sys
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mnist_jax.parallel import sharding
from mnist_jax.train_step import train_steps
from tests import jobs
from tests.faults import processes
from tests.states import create_state


def report(numbers: str, fields: dict[str, Any], *arguments: str) -> dict[str, Any]:
    """What `tests/spread.py` prints."""
    values = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "tests.spread", f"--devices={numbers}", *values]
    most = max(map(int, numbers.split(",")))
    ended = processes.run([*command, *arguments], env=jobs.devices(most), cwd=processes.ROOT)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.long
def test_the_default_batch_on_four_devices_and_on_eight():
    """100 rows on 8 do not divide; nor do the 300 to evaluate, of which some are padding."""
    fields = {
        "dataset": "fake",
        "hidden_sizes": (16,),
        "num_train_steps": 20,
        "steps_per_call": 10,
        "eval_batch_size": 300,
    }
    reports = report("1,4,8", fields)
    one = reports["1"]
    for number in ("4", "8"):
        # Each step rounds sums of about 0.1 anew: 20 steps of 0.1 * 2**-24 * a few.
        assert 0 < reports[number]["largest_difference"] < 1e-6
        assert reports[number]["num_correct"] == one["num_correct"]
    assert one["exchanges"] == []
    # Of the gradients and the loss together, and of nothing else.
    assert reports["4"]["exchanges"] == ["all-reduce"]


def test_members_are_divided_over_the_devices_even_if_they_do_not_divide():
    """Three on 2, 4 and 8 devices: on two groups, of which one repeats a member.

    A group of one device has the bits of a single device; one of several divides the batches.
    """
    fields = {
        "dataset": "fake",
        "hidden_sizes": (16,),
        "dropout": 0.2,
        "augmentation": "elastic",
        "num_train_steps": 20,
        "steps_per_call": 10,
        "num_seeds": 3,
    }
    one, two, *more = report("1,2,4,8", fields).values()
    assert two["sha256"] == one["sha256"]
    for other in more:
        assert 0 < other["largest_difference"] < 1e-6
        assert other["num_correct"] == one["num_correct"]
    assert len(one["num_correct"]["test"]) == 3


@pytest.mark.long
@pytest.mark.mnist
def test_the_tutorials_job_on_1_2_4_and_8(mnist_config: ConfigDict):
    """2,000 steps magnify what the order of the sums changes; docs/scale.md tells how much.

    Evaluated in 700 batches: where several of them were queued, their collectives waited for
    each other for ever.
    """
    fields = {"data_dir": mnist_config.data_dir, "eval_batch_size": 100}
    one, *more = report("1,2,4,8", fields).values()
    for other in more:
        assert 0 < other["largest_difference"] < 5e-3
        assert other["num_correct"] == one["num_correct"]


def test_one_device_computes_the_same_with_a_mesh_and_without(fake_config: ConfigDict):
    images = np.arange(20 * 784, dtype=np.uint8).reshape(20, 28, 28)
    examples = {"image": images, "label": np.arange(20, dtype=np.int32) % 10}
    indices = np.arange(60, dtype=np.int32).reshape(6, 10) % 20

    def train() -> list[jax.Array]:
        state = create_state(fake_config)
        return jax.tree.leaves(train_steps(state, sharding.put_replicated(examples), indices))

    plain = train()
    with sharding.use_devices():
        spread_over_one = train()
    for actual, expected in zip(spread_over_one, plain, strict=True):
        np.testing.assert_array_equal(actual, expected)

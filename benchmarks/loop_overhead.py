"""The cost of the training loop: its steps/s divided by those of `train_steps` alone.

    python -m benchmarks.loop_overhead

One run of the loop logs after each device call. After every block of calls the loop is
suspended, and a block of the same calls is timed without it, which also reads each call's
losses while the next one runs. So the two are measured half a second apart and in turns, and
other work on the machine has little effect on their ratio. Ends with a line of JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

from benchmarks import throughput
from mnist_jax import input_pipeline, train_loop
from mnist_jax.configs import default
from mnist_jax.data.load import load_dataset
from mnist_jax.parallel import sharding
from mnist_jax.train_step import train_steps

_WARM_UP = 2  # Calls at the start of a block whose times depend on what ran before it.


def measure(config: ConfigDict, calls_per_block: int) -> list[float]:
    """Returns, for each block in the loop, its speed divided by that of the block before it.

    Args:
      config: Its evaluation and checkpoint should be due at the end only.
      calls_per_block: Device calls, each of `config.steps_per_call` steps.
    """
    dataset = load_dataset(config)
    steps = range(1, config.steps_per_call + 1)
    indices = input_pipeline.batch_indices(
        config.seed, steps, config.batch_size, dataset.sizes["train"]
    )
    state = throughput.create_state(config)
    source = input_pipeline.DeviceExamples(dataset.examples)

    def time_alone() -> float:
        """Returns the median steps/s of a block of calls."""
        nonlocal state
        times, unread = [], None
        for _ in range(calls_per_block + _WARM_UP):
            state, metrics = train_steps(state, *source.feed(indices))
            if unread is not None:
                np.asarray(unread)
                times.append(time.perf_counter())
            unread = metrics["loss"]
        seconds = np.diff(times)[_WARM_UP - 1 :]
        return config.steps_per_call / float(np.median(seconds))

    time_alone()  # Compiles.
    blocks: list[tuple[range, float]] = []  # Steps of a block in the loop; speed before it.
    device_calls = train_loop.device_calls

    def suspended_calls(config: ConfigDict, first_step: int) -> Iterator[range]:
        for number, steps in enumerate(device_calls(config, first_step)):
            if number and number % calls_per_block == 0:
                size = config.steps_per_call * calls_per_block
                blocks.append((range(steps[0], steps[0] + size), time_alone()))
            yield steps

    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(train_loop, "device_calls", suspended_calls):
            train_loop.train_and_evaluate(config, Path(folder) / "run")
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    speeds = {
        line["step"]: line["batch/steps_per_second"]
        for line in map(json.loads, lines)
        if "batch/steps_per_second" in line
    }
    ratios = []
    for steps, speed_alone in blocks:
        ends = steps[config.steps_per_call - 1 :: config.steps_per_call]
        inside = [speeds[end] for end in ends[_WARM_UP:-1] if end in speeds]
        ratios.append(statistics.median(inside) / speed_alone)
    return ratios


def main() -> None:
    """Measures, and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--calls-per-block", type=int, default=10)
    args = parser.parse_args()
    config = default.get_config()
    calls = args.calls_per_block * (args.blocks + 1)
    config.num_train_steps = config.steps_per_call * calls
    config.eval_every_steps = config.checkpoint_every_steps = config.num_train_steps
    config.figures = False
    with sharding.use_devices():  # As the loop does.
        ratios = measure(config, args.calls_per_block)
    print(json.dumps({"ratio": statistics.median(ratios), "ratios": ratios}))


if __name__ == "__main__":
    main()

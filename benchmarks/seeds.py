"""Several seeds in one command, beside one command for each: `python -m benchmarks.seeds`.

Trains the default config, without figures, with `--seeds` seeds in one command, then in as many
commands one after the other; `--rounds` times. Then times the training steps alone, of one seed
and of all, in turns in this process. Ends with a line of JSON: the ratio of the wall times, and
that of the steps of seeds per second.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import process, throughput
from mnist_jax import input_pipeline, members
from mnist_jax.configs import default
from mnist_jax.data.load import load_dataset
from mnist_jax.train_step import train_steps

_ROOT = Path(__file__).parent.parent


def wall_s(seed: int, num_seeds: int) -> float:
    """Returns the seconds of a command that trains some seeds."""
    fields = {"seed": seed, "num_seeds": num_seeds, "figures": False}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(_ROOT / "train.py"), *flags, f"--workdir={folder}"]
        return process.run(command, cwd=_ROOT).wall_s


def speeds(num_seeds: int, calls: int) -> tuple[float, float]:
    """Returns the steps/s of a single seed, and the steps of seeds/s of several: medians."""
    config = default.get_config()
    dataset = load_dataset(config)
    source = input_pipeline.DeviceExamples(dataset.examples)
    steps = range(1, config.steps_per_call + 1)
    states, indices = {}, {}
    for number in (1, num_seeds):
        config.num_seeds = number
        states[number] = throughput.create_state(config)
        indices[number] = members.batch_indices(config, steps, dataset.sizes["train"])
    seconds: dict[int, list[float]] = {1: [], num_seeds: []}
    for _ in range(calls):
        # As many steps of seeds in each turn.
        for number, repetitions in ((1, num_seeds), (num_seeds, 1)):
            start = time.perf_counter()
            for _ in range(repetitions):
                call = source.feed(indices[number])
                states[number], _ = train_steps(states[number], *call)
            jax.block_until_ready(states[number])
            seconds[number].append(time.perf_counter() - start)
    size = num_seeds * len(steps)
    one, several = (size / statistics.median(values[1:]) for values in seconds.values())
    return one, several


def main() -> None:
    """Measures, and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    wall_s(0, 1)  # Fills the caches.
    ratios = []
    for _ in range(args.rounds):
        together = wall_s(0, args.seeds)
        apart = sum(wall_s(seed, 1) for seed in range(args.seeds))
        ratios.append(together / apart)
        print(f"one command {together:.1f} s, {args.seeds} commands {apart:.1f} s")
    one, several = speeds(args.seeds, calls=20)
    print(f"one seed {one:,.0f} steps/s, {args.seeds} seeds {several:,.0f} steps of seeds/s")
    print(json.dumps({"wall": statistics.median(ratios), "speed": several / one}))


if __name__ == "__main__":
    main()

"""Examples on the host beside examples on the device: `python -m benchmarks.streaming`.

Trains on MNIST by `train_steps`, as the loop does: from the device's memory, from an array on
the host, and from a folder of .npy files, in turns, with the same batches. Prints the steps/s,
and the median over the rounds of their ratio to those from the device. Then trains by
`train.py` on files of two sizes, and prints each command's peak memory. Ends with a line of
JSON. Linux only: the memory is read from /proc.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.lib import format as npy

from benchmarks import process, throughput
from mnist_jax import input_pipeline
from mnist_jax.configs import adamw, default
from mnist_jax.data.load import load_dataset
from mnist_jax.train_step import train_steps

_ROOT = Path(__file__).parent.parent


def speeds(config: ConfigDict, rounds: int, calls: int) -> dict[str, list[float]]:
    """Returns the steps/s of each round, by the place of the examples.

    Args:
      config: `steps_per_call` steps form a call.
      rounds: Number of timings of each place.
      calls: Calls in a timing, which is their median.
    """
    dataset, size = load_dataset(config), config.steps_per_call
    with tempfile.TemporaryDirectory() as folder:
        for name, split in dataset.splits.items():
            np.save(Path(folder) / f"x_{name}.npy", split.image)
            np.save(Path(folder) / f"y_{name}.npy", split.label)
        files = load_dataset(ConfigDict({**config, "dataset": folder}))
        sources: dict[str, input_pipeline.Source] = {
            "device": input_pipeline.DeviceExamples(dataset.examples),
            "host": input_pipeline.HostExamples(dataset.examples),
            "files": input_pipeline.HostExamples(files.examples),
        }
        state = throughput.create_state(config)
        measured: dict[str, list[float]] = {place: [] for place in sources}
        for number in range(rounds + 1):  # The first one compiles.
            for place, source in sources.items():
                times, unread = [], None
                for call in range(number * calls, (number + 1) * calls):
                    steps = range(call * size + 1, (call + 1) * size + 1)
                    indices = input_pipeline.batch_indices(
                        config.seed, steps, config.batch_size, dataset.sizes["train"]
                    )
                    state, metrics = train_steps(state, *source.feed(indices))
                    # As the loop does, of the call before this one.
                    jax.block_until_ready(unread)
                    times.append(time.perf_counter())
                    unread = metrics
                jax.block_until_ready(unread)
                measured[place].append(size / float(np.median(np.diff(times)[1:])))
    return {place: values[1:] for place, values in measured.items()}


def peak_mib(num_examples: int) -> float:
    """Trains 300 steps from a file of 784 bytes an example; returns the peak of the memory."""
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "x_train.npy").open("wb") as file:
            shape = num_examples, 28, 28
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 784 * num_examples)  # Zeros, which take no disk.
        np.save(Path(folder) / "y_train.npy", np.arange(num_examples, dtype=np.int32) % 10)
        fields = {"dataset": folder, "examples": "host", "num_train_steps": 300}
        flags = [f"--config.{name}={x}" for name, x in {**fields, "figures": False}.items()]
        command = [sys.executable, "train.py", *flags, f"--workdir={folder}/run"]
        peak = process.run(command, cwd=_ROOT, sample_memory=True).peak_rss_mib
    assert peak
    return peak


def main() -> None:
    """Measures, and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=12, help="in each round")
    parser.add_argument(
        "--examples", type=int, nargs="*", default=[1_500_000, 15_000_000], help="of the files"
    )
    args = parser.parse_args()
    ratios, peaks = {}, {}
    configs = {"default": default.get_config(), "adamw": adamw.get_config()}
    for name, config in configs.items() if args.rounds else ():
        measured = speeds(config, args.rounds, args.calls)
        for place, values in measured.items():
            each = [x / y for x, y in zip(values, measured["device"], strict=True)]
            ratios[f"{name}, {place}"] = ratio = statistics.median(each)
            print(f"{name:8} {place:7} {statistics.median(values):6,.0f} steps/s  {ratio:.2f}")
    for number in args.examples:
        peaks[number] = peak_mib(number)
        print(f"{number:11,} examples, {784 * number / 1e9:4.1f} GB: {peaks[number]:,.0f} MiB")
    print(json.dumps({"ratio": ratios, "peak_mib": peaks}))


if __name__ == "__main__":
    main()

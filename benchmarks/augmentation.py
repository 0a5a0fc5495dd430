"""The cost of the distortions of the training images: `python -m benchmarks.augmentation`.

Trains a network of 800 hidden units, batch 128, AdamW, on MNIST by `train_steps`, in turns
without and with each distortion, and prints the milliseconds of a step and the distortion's
share of it. Draws a sheet of originals and their distortions. Ends with a line of JSON.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import throughput
from mnist_jax import input_pipeline
from mnist_jax.augmentation import create_augmentation
from mnist_jax.configs import default
from mnist_jax.data.datasets import Dataset
from mnist_jax.data.load import load_dataset
from mnist_jax.train_step import train_steps

_SHEET = Path(__file__).parent.parent / "docs" / "images" / "augmentation.png"
_NAMES = ("", "affine", "elastic")


def measure(dataset: Dataset, calls: int) -> dict[str, float]:
    """Returns the median milliseconds of a step by the distortion's name."""
    config = default.get_config()
    config.update(hidden_sizes=(800,), batch_size=128, optimizer="adamw", learning_rate=1e-3)
    state = throughput.create_state(config)
    source = input_pipeline.DeviceExamples(dataset.examples)
    steps = range(1, 101)
    indices = input_pipeline.batch_indices(0, steps, 128, dataset.sizes["train"])
    milliseconds: dict[str, list[float]] = {name: [] for name in _NAMES}
    for _ in range(calls + 1):
        for name in _NAMES:
            config.augmentation = name
            state = state.replace(augment=create_augmentation(config))
            start = time.perf_counter()
            state, _ = train_steps(state, *source.feed(indices))
            jax.block_until_ready(state)
            milliseconds[name].append(1000 * (time.perf_counter() - start) / len(steps))
    return {name: statistics.median(values[1:]) for name, values in milliseconds.items()}


def draw(images: np.ndarray, path: Path) -> None:
    """Draws each image in a row: itself, three times `affine` and three times `elastic`."""
    pixels, columns = jnp.asarray(images), [images.astype(np.float32)]
    for name in _NAMES[1:]:
        distort = create_augmentation(throughput.tutorial_config(augmentation=name))
        assert distort
        columns += [np.asarray(distort(jax.random.key(seed), pixels)) for seed in range(3)]
    tiles = np.pad(np.stack(columns), [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=255)
    sheet = tiles.transpose(1, 2, 0, 3).reshape(len(images) * tiles.shape[2], -1)
    ink = Image.fromarray((255 - sheet).round().astype(np.uint8))
    ink.resize((3 * ink.width, 3 * ink.height), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Measures, draws, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20, help="of 100 steps, for each")
    args = parser.parse_args()
    dataset = load_dataset(default.get_config())
    draw(dataset.splits["test"].image[:8], _SHEET)
    times = measure(dataset, args.calls)
    shares = {name: 1 - times[""] / times[name] for name in _NAMES[1:]}
    for name, milliseconds in times.items():
        share = f", of which {shares[name]:.0%} for the distortion" if name else ""
        print(f"{name or 'none':8} {milliseconds:.2f} ms{share}")
    print(json.dumps({"ms": times, "share": shares}))


if __name__ == "__main__":
    main()

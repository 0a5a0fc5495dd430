"""Reads back what a run wrote; makes a workdir without running one."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from mnist_jax import input_pipeline
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.configs import default
from mnist_jax.data.load import load_dataset
from mnist_jax.restoring import TrainedModel
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.train_step import train_steps
from tests.states import create_state


def journal(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def curves(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) points of TensorBoard's scalars, by `<sub-run>/<tag>`."""
    points = {}
    for run in filter(lambda run: (workdir / run).exists(), run_folder.SUB_RUNS):
        events = EventAccumulator(str(workdir / run), size_guidance={"tensors": 0})
        events.Reload()
        for tag in events.PluginTagToContent("scalars"):
            values = [
                (e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)
            ]
            points[f"{run}/{tag}"] = values
    return points


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below the folder with its bytes, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Changes a manifest's content, with a matching digest: as another version wrote it."""
    content = json.loads((folder / "manifest.json").read_text())["content"]
    edit(content)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    sealed = {"content": content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(sealed))


def probabilities(model: TrainedModel, images: np.ndarray) -> np.ndarray:
    """The probabilities that a classifier predicts, `float[n, num_classes]`."""
    return np.array([row["probabilities"] for row in model.predict(images)])


def rated(accuracy: float | None) -> dict[str, Any] | None:
    """A manifest's `best`."""
    rating = {"name": "accuracy", "mode": "max", "value": accuracy}
    return None if accuracy is None else rating


def save_trained_checkpoint(folder: Path) -> None:
    """Saves a checkpoint after 200 steps on mnist_5k, without the other files of a run."""
    config = default.get_config()
    config.update(dataset="mnist_5k", optimizer="adam", learning_rate=0.003)
    dataset = load_dataset(config)
    state = create_state(config)
    examples = jax.device_put(dataset.splits["train"]._asdict())
    indices = input_pipeline.batch_indices(0, range(1, 201), 100, dataset.sizes["train"])
    state, _ = train_steps(state, examples, indices)
    with Checkpoints(folder, keep=1) as checkpoints:
        manifest = Manifest(200, config, dataset.class_names, None, normalization="mnist")
        checkpoints.save(state, manifest)

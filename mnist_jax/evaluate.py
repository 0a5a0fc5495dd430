"""Restores a checkpoint's parameters and evaluates them.

    python -m mnist_jax.evaluate --workdir DIR [--step latest|best|N] [--split SPLIT] [--json]
        [--figures DIR]

Examples:
    python -m mnist_jax.evaluate --workdir runs/mine
    python -m mnist_jax.evaluate --workdir runs/mine --step best --split test --json
    python -m mnist_jax.evaluate --workdir runs/mine --figures figures
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from mnist_jax.runtime import command as commands
from mnist_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mnist_jax.data.datasets import Dataset
    from mnist_jax.restoring import TrainedModel

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_SPLIT = flags.DEFINE_enum(
    "split", "all", ["all", "train", "validation", "test"], "What to evaluate on."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_FIGURES = flags.DEFINE_string(
    "figures", None, "Draw the checkpoint's figures into this folder, which is created."
)


def main() -> None:
    """Prints the results."""
    from mnist_jax import input_pipeline, restoring
    from mnist_jax.eval_step import evaluate
    from mnist_jax.parallel import sharding
    from mnist_jax.reporting.reporter import format_result

    model = restoring.restore(_WORKDIR.value, _STEP.value)
    dataset = restoring.load_run_dataset(model.config)
    examples = sharding.put_replicated(dataset.examples)
    indices = input_pipeline.eval_indices(dataset.sizes, model.config.eval_batch_size)
    folder = create_folder(_FIGURES.value) if _FIGURES.value else None
    results, logits = evaluate(model.params, model.apply_fn, examples, indices)
    if folder:
        draw(model, dataset, logits["test"], folder)
    if _SPLIT.value != "all":
        results = {_SPLIT.value: results[_SPLIT.value]}
    if _JSON.value:
        report = {
            "workdir": str(model.workdir),
            "step": model.step,
            "dataset": dataset.name,
            "splits": {split: result._asdict() for split, result in results.items()},
        }
        print(json.dumps(report))
        return
    print(f"Step {model.step} of {model.workdir}")
    for split, result in results.items():
        print(format_result(split, dataset.name, result))


def create_folder(path: str) -> Path:
    """Creates the folder where it is missing.

    Raises:
      UserError: It can't be.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"figures: {folder}: {error.strerror}; choose another") from error
    return folder


def draw(model: TrainedModel, dataset: Dataset, logits: np.ndarray, folder: Path) -> None:
    """Writes the figures that the run itself drew at this step."""
    from mnist_jax.reporting import figures
    from mnist_jax.reporting import reporter as reporting
    from mnist_jax.train_loop import figure_arrays

    drawn = figures.draw(
        dataset=dataset.name,
        step=model.step,
        journal=reporting.read_journal(model.workdir, model.step),
        **figure_arrays(model.params, dataset.test, logits),
    )
    try:
        figures.save_all(folder, drawn)
    except OSError as error:
        raise UserError(f"figures: {folder}: {error.strerror}; choose another") from error


if __name__ == "__main__":
    commands.run(main)

"""Restores a checkpoint's parameters and evaluates them.

python -m mnist_jax.evaluate --workdir DIR [--step latest|best|N] [--split SPLIT] [--json]
"""

import json

from absl import flags

from mnist_jax import commands

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_SPLIT = flags.DEFINE_enum(
    "split", "all", ["all", "train", "validation", "test"], "What to evaluate on."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")


def main() -> None:
    """Prints the results."""
    from mnist_jax import restoring
    from mnist_jax.reporting import format_result
    from mnist_jax.train_loop import create_eval_batches, evaluate

    model = restoring.restore(_WORKDIR.value, _STEP.value)
    splits = None if _SPLIT.value == "all" else [_SPLIT.value]
    dataset = restoring.load_dataset(model.config)
    batches = create_eval_batches(dataset, model.config.eval_batch_size, splits)
    results = evaluate(model.params, model.apply_fn, batches)
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


if __name__ == "__main__":
    commands.run(main)

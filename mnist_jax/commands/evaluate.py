"""Evaluates a checkpoint of a run, and draws its figures.

    mnist-jax evaluate --workdir DIR [--step latest|best|N] [--member K]
        [--split SPLIT] [--json] [--figures DIR]

Examples:
    mnist-jax evaluate --workdir runs/mine
    mnist-jax evaluate --workdir runs/mine --step best --split test --json
    mnist-jax evaluate --workdir runs/mine --figures figures
"""

import json

import numpy as np
from absl import flags

from mnist_jax.commands.flags import JSON, MEMBER, STEP, WORKDIR
from mnist_jax.runtime import run_folder, terminal
from mnist_jax.runtime.errors import refusing

for flag in (WORKDIR, STEP, MEMBER, JSON):
    flags.declare_key_flag(flag)

_SPLIT = flags.DEFINE_enum(
    "split", "all", ["all", "train", "validation", "test"], "The split to evaluate."
)
_FIGURES = flags.DEFINE_string(
    "figures", None, "Folder to draw the figures of the split in (with all: of the test split)."
)


def main() -> None:
    """Prints the results."""
    from mnist_jax import committee, restoring
    from mnist_jax.input_pipeline import eval_indices
    from mnist_jax.members import select
    from mnist_jax.reporting.journal import read_journal
    from mnist_jax.reporting.reporter import figure_arguments, format_result

    folder = run_folder.resolve("figures", _FIGURES.value) if _FIGURES.value else None
    model = restoring.restore(WORKDIR.value, STEP.value, member=MEMBER.value)
    dataset = restoring.load_run_dataset(model)
    indices = eval_indices(dataset.sizes, model.config.eval_batch_size)
    results, logits = committee.evaluate(
        model.variables, model.model.apply, dataset.examples, indices, model.num_members
    )
    if folder:
        from mnist_jax.reporting import figures

        split = "test" if _SPLIT.value == "all" else _SPLIT.value
        params = select(model.variables["params"], 0, model.num_members)
        arguments = figure_arguments(model.model, params, dataset, split, logits[split])
        journal = read_journal(model.workdir, model.step)
        with refusing(f"figures: {folder}", "choose another folder"):
            _, errors = figures.draw(folder, step=model.step, journal=journal, **arguments)
        if errors:
            terminal.print_warning(f"WARNING: figures are missing ({'; '.join(errors)})")
    if _SPLIT.value != "all":
        results = {_SPLIT.value: results[_SPLIT.value]}
    if JSON.value:
        report = {
            "workdir": str(model.workdir),
            "step": model.step,
            "member": MEMBER.value,
            "dataset": dataset.name,
            "splits": results,
        }
        print(json.dumps(report, default=np.ndarray.tolist))
    else:
        of_member = "" if MEMBER.value is None else f", member {MEMBER.value}"
        print(f"Step {model.step} of {model.workdir}{of_member}")
        for split, result in results.items():
            print(format_result(split, dataset.name, result))

"""Evaluates a checkpoint of a run, and draws its figures.

    mnist-jax evaluate --workdir DIR [--step latest|best|N] [--member K]
        [--model FILE.py:NAME] [--task FILE.py:NAME] [--dataset PATH] [--split SPLIT] [--json]
        [--figures DIR]

Examples:
    mnist-jax evaluate --workdir runs/mine
    mnist-jax evaluate --workdir runs/mine --step best --split test --json
    mnist-jax evaluate --workdir runs/mine --figures figures
"""

from absl import flags

from mnist_jax.commands.flags import CHECKPOINT, JSON, MEMBER, print_json, restore_checkpoint
from mnist_jax.runtime import run_folder, terminal
from mnist_jax.runtime.errors import refusing

for flag in (*CHECKPOINT, JSON):
    flags.declare_key_flag(flag)

_DATASET = flags.DEFINE_string(
    "dataset", None, "The path where the run's own dataset is now, if it moved."
)
_SPLIT = flags.DEFINE_enum(
    "split", "all", ["all", "train", "validation", "test"], "The split to evaluate."
)
_FIGURES = flags.DEFINE_string(
    "figures", None, "Folder to draw the figures of the split in (with all: of the test split)."
)


def main() -> None:
    """Prints the results."""
    from mnist_jax import input_pipeline, restoring
    from mnist_jax.eval_step import evaluate
    from mnist_jax.members import select
    from mnist_jax.reporting.figure_worker import collect_arguments
    from mnist_jax.reporting.journal import read_journal

    folder = run_folder.resolve("figures", _FIGURES.value) if _FIGURES.value else None
    model = restore_checkpoint()
    dataset = restoring.load_run_dataset(model, _DATASET.value)
    indices = input_pipeline.eval_indices(dataset.sizes, model.config.eval_batch_size)
    wanted = [*indices] if _SPLIT.value == "all" else [_SPLIT.value]
    place = input_pipeline.choose_place(dataset.examples, "auto")
    results, outputs = evaluate(
        model.variables,
        model.model.apply,
        model.task,
        input_pipeline.create_source(dataset.examples, place),
        {split: indices[split] for split in wanted},
        num_members=model.num_members,
        keep=wanted[-1:] if folder else (),
    )
    if folder:
        from mnist_jax.reporting import figures

        ((split, its_outputs),) = outputs.items()
        params = select(model.variables["params"], 0, model.num_members)
        arguments = collect_arguments(
            model.model, model.task, params, dataset, split, its_outputs
        )
        journal = read_journal(model.workdir, model.step)
        with refusing(f"figures: {folder}", "choose another folder"):
            _, errors = figures.draw(folder, step=model.step, journal=journal, **arguments)
        if errors:
            terminal.print_warning(f"WARNING: figures are missing ({'; '.join(errors)})")
    if JSON.value:
        print_json(model, splits=results)
    else:
        of_member = "" if MEMBER.value is None else f", member {MEMBER.value}"
        print(f"Step {model.step} of {model.workdir}{of_member}")
        for split, result in results.items():
            print(model.task.report(split, dataset.name, result))

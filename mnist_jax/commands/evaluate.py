"""Evaluates a checkpoint of a run, on the run's data or on others.

    mnist-jax evaluate --workdir DIR [--step latest|best|N] [--member K]
        [--model FILE.py:NAME] [--task FILE.py:NAME] [--dataset NAME_OR_PATH] [--split SPLIT]
        [--json] [--figures DIR] [--csv FILE]

With --dataset it also prints the confusion matrix of a classifier, and the precision, recall
and F1 of each class.

Examples:
    mnist-jax evaluate --workdir runs/mine
    mnist-jax evaluate --workdir runs/mine --step best --split test --json
    mnist-jax evaluate --workdir runs/mine --figures figures --csv examples.csv
    mnist-jax evaluate --workdir runs/mine --dataset ./others --split test
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags

from mnist_jax.commands import flags as shared
from mnist_jax.runtime import run_folder, terminal
from mnist_jax.runtime.errors import refusing

for flag in (*shared.CHECKPOINT, shared.JSON, shared.CSV):
    flags.declare_key_flag(flag)

_DATASET = flags.DEFINE_string(
    "dataset", None, "Other data, whose classes have the same names; or the run's, if it moved."
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
    from mnist_jax.reporting.figure_worker import Evaluation, first_layer_weights
    from mnist_jax.reporting.journal import read_journal

    folder = run_folder.resolve("figures", _FIGURES.value) if _FIGURES.value else None
    model = shared.restore_checkpoint()
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
        keep=wanted if shared.CSV.value else wanted[-1:] if folder or _DATASET.value else (),
    )
    split = wanted[-1]
    if folder:
        from mnist_jax.reporting import figures

        params = select(model.variables["params"], 0, model.num_members)
        weights = first_layer_weights(model.model, params, dataset)
        journal = read_journal(model.workdir, model.step)
        data = Evaluation(
            model.task, dataset, split, model.step, outputs[split], journal, weights
        )
        with refusing(f"figures: {folder}", "choose another folder"):
            _, errors = figures.draw(folder, data)
        if errors:
            terminal.print_warning(f"WARNING: figures are missing ({'; '.join(errors)})")
    columns = ("split", "index", "label", "prediction", "probability", "loss")
    shared.write_csv(columns, _rows(model, dataset, outputs))
    counts = None
    if _DATASET.value and "confusion_matrix" in model.task.figures:
        counts = np.zeros((len(dataset.class_names),) * 2, int)  # [true class, predicted class]
        np.add.at(counts, (dataset.splits[split].label, outputs[split].argmax(axis=1)), 1)
    if shared.JSON.value:
        matrix = {} if counts is None else {"confusion_matrix": counts}
        shared.print_json(model, dataset=dataset.name, splits=results, **matrix)
        return
    of_member = "" if shared.MEMBER.value is None else f", member {shared.MEMBER.value}"
    lines = [f"Step {model.step} of {model.workdir}{of_member}"]
    lines += [model.task.report(name, dataset.name, result) for name, result in results.items()]
    if counts is not None:
        lines += _table(counts, dataset.class_names)
    print(terminal.printable("\n".join(lines), keep="\n"))


def _table(counts: np.ndarray, names: tuple[str, ...]) -> Iterator[str]:
    """Yields a line for each class: its rates, and how often it was predicted as which."""
    right, examples, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):  # NaN: of no example.
        rates = right / predicted, right / examples, 2 * right / (predicted + examples)
    width = max(5, *map(len, names))
    columns = [f"{name:>9}" for name in ("examples", "correct", "precision", "recall", "F1")]
    yield " ".join([f"{'class':>{width}}", *columns, "  predicted as"])
    yield " ".join([" " * (width + 52), *(f"{name:>{width}}" for name in names)])
    for i, name in enumerate(names):
        cells = [f"{examples[i]:9}", f"{right[i]:9}", *(f"{rate[i]:9.4f}" for rate in rates)]
        yield " ".join([f"{name:>{width}}", *cells, " ", *(f"{x:{width}}" for x in counts[i])])


def _rows(model: Any, dataset: Any, outputs: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """Yields a row of `--csv` for each example; `index` is its place in the split, from 0."""
    for split, its_outputs in outputs.items():
        batch = dataset.splits[split]._asdict()
        losses = np.asarray(model.task.loss(its_outputs, batch)).tolist()
        predictions = model.task.describe(its_outputs, dataset.class_names)
        examples = zip(batch["label"], losses, predictions, strict=True)
        for index, (label, loss, row) in enumerate(examples):
            label = dataset.class_names[label] if "class" in row else label
            yield {**row, "split": split, "index": index, "label": label, "loss": loss}

"""The flags of several commands; each command declares those that it takes as key flags."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mnist_jax.runtime.errors import refusing
from mnist_jax.runtime.files import replacing

WORKDIR = flags.DEFINE_string(
    "workdir",
    "",
    "The run's folder. train creates it, or resumes its run; by default it is "
    "runs/<config name>/<YYYYMMDD-HHMMSS>.",
)
STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
MEMBER = flags.DEFINE_integer("member", None, "One of several seeds, from 0; else all.")
MODEL = flags.DEFINE_string(
    "model", None, "The run's own model, if it has one: FILE.py:NAME or package.module:NAME."
)
TASK = flags.DEFINE_string("task", None, "The run's own task, likewise.")
CHECKPOINT = WORKDIR, STEP, MEMBER, MODEL, TASK  # What `restore_checkpoint` reads.
CSV = flags.DEFINE_string("csv", None, "File to write, with a row for each example.")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")


def restore_checkpoint() -> Any:
    """Returns the `restoring.TrainedModel` that the flags name."""
    from mnist_jax import restoring

    return restoring.restore(
        WORKDIR.value, STEP.value, model=MODEL.value, task=TASK.value, member=MEMBER.value
    )


def print_json(model: Any, **results: Any) -> None:
    """Prints one JSON object: which `TrainedModel` it was, and its results."""
    names = {"workdir": str(model.workdir), "step": model.step, "member": MEMBER.value}
    report = {**names, "dataset": model.config.dataset, **results}
    print(json.dumps(report, default=lambda array: array.tolist()))


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows of `Task.describe`, with other columns, to the file of `--csv`, if any."""
    if not CSV.value:
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        probability = max(row.get("probabilities", [""]))
        prediction = row.get("class", row["text"])
        writer.writerow({**row, "prediction": prediction, "probability": probability})
    path, advice = Path(CSV.value).absolute(), "choose another file"
    with refusing(f"csv: {path}", advice), replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))  # Names of files.

"""The flags of several commands; each command declares those that it takes as key flags."""

import json
from typing import Any

from absl import flags

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

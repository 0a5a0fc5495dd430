"""Real processes of the commands, and what a run has left on disk."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mnist_jax.checkpointing import Checkpoints
from mnist_jax.configs import default
from mnist_jax.train_step import TrainState
from tests.states import create_state
from tests.workdirs import contents

ROOT = Path(__file__).parent.parent.parent
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup sets it to be ignored, also by children.

NOT_REPRODUCIBLE = "batch/steps_per_second"

# Short, and yet with an optimizer state, and with something due at every tenth step.
SHORT_RUN: dict[str, Any] = {
    "dataset": "fake",
    "hidden_sizes": (16,),
    "momentum": 0.9,
    "batch_size": 30,
    "num_train_steps": 400,
    "steps_per_call": 10,
    "log_every_steps": 10,
    "eval_every_steps": 20,
    "checkpoint_every_steps": 20,
    "eval_batch_size": 500,
    "figures": False,
}


def train_command(workdir: Path | str, fields: dict[str, Any]) -> list[str]:
    values = [f"--config.{name}={value}" for name, value in fields.items()]
    config = f"--config={ROOT / 'configs' / 'default.py'}"
    return [sys.executable, str(ROOT / "train.py"), config, f"--workdir={workdir}", *values]


def evaluate_command(workdir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mnist_jax", "evaluate", f"--workdir={workdir}", *arguments]


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(command: list[str], **options: Any) -> Ended:
    process = start(command, **options)
    stdout, stderr = process.communicate(timeout=300)
    return Ended(process.returncode, stdout, stderr)


def check_refused(folder: Path, command: list[str], message: str) -> None:
    """Runs the command in the folder: exit code 2, one line, and nothing has changed."""
    before = contents(folder)
    ended = run(command, cwd=folder)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert contents(folder) == before


class Remains(NamedTuple):
    """What a run has left: equal for runs that are equal to the bit.

    Attributes:
      steps: Of the checkpoints.
      state: Bytes of every leaf of the newest one.
      journal: The lines of metrics.jsonl, without the speed.
      points: What TensorBoard's own reader finds, by sub-run and tag, in an order that does
        not depend on how many files there are; a point there twice is here twice.
      results: Of results.json, without environment and config; None before the run is complete.
    """

    steps: list[int]
    state: dict[str, bytes]
    journal: list[dict[str, Any]]
    points: list[tuple[str, int, bytes]]
    results: dict[str, Any] | None

    def without_description(self) -> "Remains":
        """Without the config in TensorBoard, which is that of the run's beginning."""
        return self._replace(points=[point for point in self.points if point[0] != "./config"])

    def without_figures(self) -> "Remains":
        """Without the figures in TensorBoard, which an interrupted run may not have drawn."""
        points = [point for point in self.points if not point[0].startswith("./figures/")]
        return self._replace(points=points)


def remains(workdir: Path, config: ConfigDict | None = None) -> Remains:
    config = config or short_config()
    with Checkpoints(workdir) as checkpoints:
        steps = checkpoints.steps()
        state = checkpoints.restore(steps[-1], abstract_state(config))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return Remains(
        steps=steps,
        state={jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves},
        journal=[
            {k: v for k, v in json.loads(line).items() if k != NOT_REPRODUCIBLE}
            for line in lines
        ],
        points=sorted(
            (f"{path.parent.relative_to(workdir)}/{value.tag}", event.step, _value_bytes(value))
            for path in workdir.rglob("events.out.tfevents.*")
            if path.is_file()  # Reading a pipe in the place of one would block.
            for event in EventFileLoader(str(path)).Load()
            for value in event.summary.value
        ),
        results=_results(workdir / "results.json"),
    )


def _results(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    results = json.loads(path.read_text())
    return {name: results[name] for name in ("step", "dataset", "splits")}


def abstract_state(config: ConfigDict) -> TrainState:
    """Returns the shapes of the state of a run on a dataset of ten classes."""
    return jax.eval_shape(lambda: create_state(config))


def newest(workdir: Path) -> list[int]:
    """The newest checkpoint's step, if there is one."""
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.steps()[-1:]


def _value_bytes(value: Any) -> bytes:
    return b"" if value.tag == NOT_REPRODUCIBLE else value.tensor.SerializeToString()


def short_config(**fields: Any) -> ConfigDict:
    """Returns the config of SHORT_RUN, with other values of some fields."""
    config = default.get_config()
    config.update(SHORT_RUN | fields)
    return config

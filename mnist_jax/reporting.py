"""What a run tells: lines on stdout, a progress bar, `metrics.jsonl`, TensorBoard.

`metrics.jsonl` is the journal: it is on disk before the checkpoint of the same step is.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import tqdm
from ml_collections import ConfigDict

from mnist_jax import event_files
from mnist_jax.datasets import Split
from mnist_jax.drawing import Drawing
from mnist_jax.event_writer import EventWriter

_JOURNAL = "metrics.jsonl"
_TITLES = {"train": "Training", "validation": "Validation", "test": "Test"}


class SplitResult(NamedTuple):
    """A model's result on every example of a split.

    Attributes:
      num_examples: How many there are.
      num_correct: How many it got right.
      accuracy: The tutorial's "Precision @ 1".
      loss: Mean cross-entropy, in nats.
    """

    num_examples: int
    num_correct: int
    accuracy: float
    loss: float


def format_result(split: str, dataset_name: str, result: SplitResult) -> str:
    """Returns the tutorial's two lines; any dataset but its own is named in them."""
    dataset = "" if dataset_name == "mnist" else f" [{dataset_name}]"
    return (
        f"{_TITLES[split]} Data Eval:{dataset}\n"
        f"  Num examples: {result.num_examples}  Num correct: {result.num_correct}"
        f"  Precision @ 1: {result.accuracy:0.04f}"
    )


class Reporter:
    """Reports a run from `first_step` on; a context manager that writes all out at its end.

    Of an earlier attempt at the run, what was reported after `first_step` is removed: it
    will come again, since no checkpoint holds it.
    """

    def __init__(
        self,
        workdir: Path,
        config: ConfigDict,
        parameter_table: str,
        first_step: int,
    ):
        """Opens the files.

        Args:
          workdir: The run's folder.
          config: The run's; its dataset is named in every report.
          parameter_table: For TensorBoard's Text tab.
          first_step: Completed updates of the state that the run starts from.
        """
        self._dataset = config.dataset
        written_lines = _cut_journal(workdir / _JOURNAL, first_step)
        written_points = event_files.cut(workdir, first_step)
        self._lines = written_lines
        self._journal = (workdir / _JOURNAL).open("a")
        self._events = EventWriter(workdir)
        self._drawing = (
            Drawing(workdir / "figures", self._events.write_images) if config.figures else None
        )
        if ("config", 0) not in written_points:
            self._describe(config, parameter_table)
        for line in written_lines:
            # What the journal holds and the event files lost: they are written later.
            step = line["step"]
            lost = {t: x for t, x in _scalars(line).items() if (t, step) not in written_points}
            if lost:
                self._events.write_scalars(step, lost)
        self._bar = tqdm.tqdm(
            total=config.num_train_steps,
            initial=first_step,
            unit="step",
            file=sys.stderr,
            disable=None,  # Unless stderr is a terminal.
            dynamic_ncols=True,
            leave=False,
        )
        self._last_step, self._last_time = first_step, time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._journal.close()
        try:
            if self._drawing:
                self._drawing.close()
        finally:
            self._events.close()

    def _describe(self, config: ConfigDict, parameter_table: str) -> None:
        """Writes what the run is, for TensorBoard's HParams and Text tabs."""
        rows = "\n".join(f"| {name} | `{value!r}` |" for name, value in config.items())
        texts = {
            "config": f"| field | value |\n|---|---|\n{rows}",
            "parameters": f"```\n{parameter_table}\n```",
        }
        self._events.write_texts(0, texts)
        as_text = {k: str(v) if isinstance(v, tuple) else v for k, v in config.items()}
        self._events.write_hparams(as_text)

    def progress(self, step: int) -> None:
        """Moves the progress bar."""
        self._bar.update(step - self._bar.n)

    def train(self, step: int, loss: float, learning_rate: float) -> None:
        """Reports a training step, and the speed since the last report."""
        now = time.perf_counter()
        seconds_per_step = (now - self._last_time) / (step - self._last_step)
        self.print(f"Step {step}: loss = {loss:.2f} ({seconds_per_step:.3f} sec)")
        self._write(
            step,
            {
                "train/loss": loss,
                "train/learning_rate": learning_rate,
                "train/steps_per_second": 1 / seconds_per_step,
            },
        )
        self._last_step, self._last_time = step, now

    def evaluation(self, step: int, results: Mapping[str, SplitResult]) -> None:
        """Reports the results of every split."""
        scalars: dict[str, float] = {}
        for split, result in results.items():
            self.print(format_result(split, self._dataset, result))
            # `train/loss` is the batch's; that of the whole split is another curve.
            loss_tag = "train/eval_loss" if split == "train" else f"{split}/loss"
            scalars |= {f"{split}/accuracy": result.accuracy, loss_tag: result.loss}
        self._write(step, scalars)

    def figures(
        self, step: int, test: Split, log_probabilities: np.ndarray, kernel: np.ndarray
    ) -> None:
        """Has the figures of this step drawn; see `figures.draw`."""
        if self._drawing:
            self._drawing.draw(
                dataset=self._dataset,
                step=step,
                images=test.image,
                labels=test.label,
                log_probabilities=log_probabilities,
                kernel=kernel,
                journal=list(self._lines),
            )

    def restart_clock(self, step: int) -> None:
        """Leaves what was done since the last report out of the next one's speed."""
        self._last_step, self._last_time = step, time.perf_counter()

    def flush(self) -> None:
        """Makes the journal safe, so that a checkpoint never holds more than it."""
        self._journal.flush()
        self._events.flush()

    def print(self, text: str) -> None:
        """Prints on stdout without breaking the progress bar."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        line = {"step": step, "dataset": self._dataset, **scalars}
        self._lines.append(line)
        self._journal.write(json.dumps(line) + "\n")
        self._events.write_scalars(step, scalars)


def _cut_journal(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Removes the lines after `last_step`, and one that was not written to its end.

    Returns:
      The lines that stay.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= last_step]
    if kept != lines:
        aside = path.with_name(f".{path.name}")
        aside.write_text("".join(kept))
        aside.replace(path)
    return [json.loads(line) for line in kept]


def read_journal(workdir: Path, last_step: int) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` to `last_step`; none where there is no such file."""
    path = workdir / _JOURNAL
    if not path.exists():
        return []
    # A run may be under way, and its last line not yet written to its end.
    lines = [x for x in path.read_text().splitlines(keepends=True) if x.endswith("\n")]
    return [line for line in map(json.loads, lines) if line["step"] <= last_step]


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key not in ("step", "dataset")}

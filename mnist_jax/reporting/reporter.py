"""What a run tells: lines on stdout, a progress bar, `metrics.jsonl`, TensorBoard.

`metrics.jsonl` is the journal: it is on disk before the checkpoint of the same step is.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from mnist_jax.reporting import event_files, event_writer
from mnist_jax.reporting import figure_worker as drawing
from mnist_jax.reporting.event_writer import EventWriter
from mnist_jax.reporting.figure_worker import Drawing
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import UserError, WriteError, writing_to
from mnist_jax.runtime.signals import PreemptedError

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
    will come again, since no checkpoint holds it. What it did not get to write into the
    event files is written now, from the journal.
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

        Raises:
          UserError: The journal is damaged.
          WriteError: Here, and from every method that reports.
        """
        self._dataset = config.dataset
        self._path = workdir / _JOURNAL
        with writing_to(self._path):
            written_lines = _cut_journal(self._path, first_step)
            written_points = event_files.cut(workdir, first_step)
            if ("config", 0) not in written_points:
                written_points = event_files.cut(workdir, -1)  # Begun anew: `_describe`.
        self._written_points = written_points
        self._lines = written_lines
        self._events = EventWriter(workdir)
        if not event_writer.is_available():
            print(
                "WARNING: TensorBoard is not installed, so there will be no event files; "
                f"{_JOURNAL} has every number",
                file=sys.stderr,
                flush=True,
            )
        if ("config", 0) not in written_points:
            self._describe(config, parameter_table)
        for line in written_lines:
            # What the journal holds and the event files lost: they are written later.
            step = line["step"]
            lost = {t: x for t, x in _scalars(line).items() if (t, step) not in written_points}
            if lost:
                self._events.write_scalars(step, lost)
        with writing_to(self._path):
            self._journal = self._path.open("a")
        terminal = shutil.get_terminal_size()
        self._bar = tqdm.tqdm(
            total=config.num_train_steps,
            initial=first_step,
            unit=" steps",
            file=sys.stderr,
            disable=None,  # Unless stderr is a terminal.
            # Not tqdm's own look, which shows nothing where the terminal tells no size.
            ncols=terminal.columns,
            nrows=terminal.lines,
            leave=False,
        )
        self._drawing = (
            Drawing(workdir / "figures", self._events.write_images) if config.figures else None
        )
        self._has_histograms = False
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
        # Asked to stop, there is no time for an import, nor for figures, and on a
        # full disk no room: the next attempt writes the events that this one did not.
        is_urgent = isinstance(error, PreemptedError | WriteError)
        try:
            if self._drawing:
                self._drawing.close(wait=not is_urgent)
        finally:
            try:
                self._events.close(wait_for_import=not is_urgent)
            finally:
                with writing_to(self._path):
                    self._journal.close()

    def _describe(self, config: ConfigDict, parameter_table: str) -> None:
        """Writes what the run is, for TensorBoard's HParams and Text tabs."""
        rows = "\n".join(f"| {name} | `{value!r}` |" for name, value in config.items())
        texts = {
            "parameters": f"```\n{parameter_table}\n```",
            "config": f"| field | value |\n|---|---|\n{rows}",
        }
        self._events.write_hparams(config_lib.hyperparameters(config))
        self._events.write_texts(0, texts)  # `config` last: where it is, all of it is.

    def graph(self, tag: str, function: Callable[..., Any], *example_args: Any) -> None:
        """Writes a function's graph, unless an earlier attempt at the run has."""
        if (tag, 0) not in self._written_points:
            self._events.write_graph(tag, function, *example_args)

    def progress(self, step: int) -> None:
        """Moves the progress bar."""
        self._bar.update(step - self._bar.n)

    def train(
        self, step: int, loss: float, learning_rate: float, grad_norm: float | None = None
    ) -> None:
        """Reports a training step, and the speed since the last report."""
        now = time.perf_counter()
        seconds_per_step = (now - self._last_time) / (step - self._last_step)
        self.print(f"Step {step}: loss = {loss:.2f} ({seconds_per_step:.3f} sec)")
        scalars = {
            "train/loss": loss,
            "train/learning_rate": learning_rate,
            "train/steps_per_second": 1 / seconds_per_step,
        }
        if grad_norm is not None:
            scalars["train/grad_norm"] = grad_norm
        self._write(step, scalars)
        self._last_step, self._last_time = step, now

    def histograms(self, step: int, trees: Any) -> None:
        """Reports the distribution of each array in a tree, under its path."""
        arrays = {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
        }
        self._events.write_histograms(step, arrays)
        self._has_histograms = True

    def evaluation(self, step: int, results: Mapping[str, SplitResult]) -> None:
        """Reports the results of every split."""
        scalars: dict[str, float] = {}
        for split, result in results.items():
            self.print(format_result(split, self._dataset, result))
            # `train/loss` is the batch's; that of the whole split is another curve.
            loss_tag = "train/eval_loss" if split == "train" else f"{split}/loss"
            scalars |= {f"{split}/accuracy": result.accuracy, loss_tag: result.loss}
        self._write(step, scalars)

    def figures(self, step: int, **arrays: np.ndarray) -> None:
        """Has the figures of this step drawn; see `figures.draw`."""
        if self._drawing:
            self._drawing.draw(
                dataset=self._dataset,
                step=step,
                journal=list(self._lines),
                **arrays,
            )

    def lacks_figures(self, step: int) -> bool:
        """Returns whether an earlier attempt at the run left this step's figures undrawn."""
        is_evaluated = any(
            line["step"] == step and "test/accuracy" in line for line in self._lines
        )
        return (
            self._drawing is not None
            and is_evaluated
            and not _figure_points(step) <= self._written_points
        )

    def restart_clock(self, step: int) -> None:
        """Leaves what was done since the last report out of the next one's speed."""
        self._last_step, self._last_time = step, time.perf_counter()

    def flush(self) -> None:
        """Makes safe what a checkpoint must never hold more than.

        That is the journal, from which a later attempt at the run writes the events that
        are lost; and what the journal does not hold, the histograms.
        """
        with writing_to(self._path):
            self._journal.flush()
        self._events.flush(wait=self._has_histograms)

    def print(self, text: str) -> None:
        """Prints on stdout without breaking the progress bar."""
        with writing_to("stdout"):
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        line = {"step": step, "dataset": self._dataset, **scalars}
        self._lines.append(line)
        with writing_to(self._path):
            self._journal.write(json.dumps(line) + "\n")
        self._events.write_scalars(step, scalars)


class Silence:
    """Stands where a `Reporter` would, in every process but the first: it tells nothing."""

    def __getattr__(self, method: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def is_whole(
    workdir: Path, last_step: int, graphs: Collection[str], *, has_figures: bool
) -> bool:
    """Returns whether the files of a run that ended at `last_step` lack nothing.

    A run that was killed after its last save, while the event files were still to be
    written, lacks points that its journal holds; a `Reporter` adds them.

    Args:
      workdir: The run's folder.
      last_step: Completed updates at its end.
      graphs: The tags of its graphs.
      has_figures: Whether figures of the last step are to be there.
    """
    path = workdir / _JOURNAL
    if not path.exists():
        return False
    lines, size = _read_journal(path, last_step)
    if size < path.stat().st_size:
        return False
    if not event_writer.is_available():
        return True
    wanted = {(tag, line["step"]) for line in lines for tag in _scalars(line)}
    wanted |= {(tag, 0) for tag in ("config", *graphs)}
    if has_figures:
        wanted |= _figure_points(last_step)
    return wanted <= event_files.points(workdir)


def _cut_journal(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Removes the lines after `last_step`, and one that was not written to its end.

    Returns:
      The lines that stay.
    """
    if not path.exists():
        return []
    kept, size = _read_journal(path, last_step)
    os.truncate(path, size)
    return kept


def _read_journal(path: Path, last_step: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the whole lines up to `last_step`, and how many bytes they take."""
    size, kept = 0, []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                content = json.loads(line)
                is_late = content["step"] > last_step
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}: line {number} is damaged; delete it, or move the file away"
                ) from error
            if is_late:
                break
            size += len(line)
            kept.append(content)
    return kept, size


def read_journal(workdir: Path, last_step: int) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` to `last_step`; none where there is no such file."""
    path = workdir / _JOURNAL
    return _read_journal(path, last_step)[0] if path.exists() else []


def _figure_points(step: int) -> set[tuple[str, int]]:
    return {(f"figures/{name}", step) for name in drawing.NAMES}


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key not in ("step", "dataset")}

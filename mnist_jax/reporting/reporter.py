"""Reports a run: status lines, a progress bar, `metrics.jsonl`, TensorBoard, figures."""

import math
import shutil
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

import jax
import numpy as np
import tqdm
from clu import parameter_overview

from mnist_jax.eval_step import SplitResult
from mnist_jax.parallel import job
from mnist_jax.reporting import event_files
from mnist_jax.reporting.figure_worker import FigureWorker
from mnist_jax.reporting.journal import Journal
from mnist_jax.reporting.profiling import Profiler
from mnist_jax.reporting.tensorboard import EventWriter
from mnist_jax.run import Run
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import TrainingDivergedError, WriteError, first_line, writing_to
from mnist_jax.runtime.signals import PreemptedError
from mnist_jax.train_step import Metrics, Params, TrainState, train_step

_TITLES = {"train": "Training", "validation": "Validation", "test": "Test"}


def format_result(split: str, dataset_name: str, result: SplitResult) -> str:
    """Returns the tutorial's two lines; names any dataset but the tutorial's own."""
    dataset = "" if dataset_name == "mnist" else f" [{dataset_name}]"
    return (
        f"{_TITLES[split]} Data Eval:{dataset}\n"
        f"  Num examples: {result.num_examples}  Num correct: {result.num_correct}"
        f"  Precision @ 1: {result.accuracy:0.04f}"
    )


def graphs(state: TrainState, batch_size: int) -> dict[str, tuple[Any, ...]]:
    """Returns by tag the functions that the Graphs tab shows, each with its arguments."""
    state = jax.eval_shape(lambda: state)
    images = jax.ShapeDtypeStruct((batch_size, 28, 28), np.uint8)
    labels = jax.ShapeDtypeStruct((batch_size,), np.int32)

    def forward(params: Params, images: jax.Array) -> jax.Array:
        return state.apply_fn({"params": params}, images)

    return {
        "forward": (forward, state.params, images),
        "train_step": (train_step, state, {"image": images, "label": labels}),
    }


class Reporter:
    """Reports a run; a context manager that writes everything out at its end.

    In a job every process reads the metrics, and only the first one writes and prints.

    Attributes:
      profiler: Traces the steps of `config.profile_steps`.
    """

    def __init__(self, run: Run, state: TrainState):
        """Opens the files, and removes what an earlier attempt reported after `state.step`.

        Raises:
          UserError: The journal is damaged.
          WriteError: A file can't be written; also from every other method.
        """
        self._run = run
        first_step, last_step = int(state.step), run.config.num_train_steps
        is_first = job.is_first_process()
        self._journal = Journal(run.workdir, first_step) if is_first else None
        self._events = self._open_events(state) if is_first else None
        self._figures = None
        if is_first and run.config.figures and first_step < last_step:
            self._figures = FigureWorker(run.workdir)
        self.profiler = Profiler(
            run.workdir, run.config.profile_steps if is_first else (), self.print
        )
        size = shutil.get_terminal_size()
        self._bar = tqdm.tqdm(
            total=last_step,
            initial=first_step,
            unit=" steps",
            file=sys.stderr,
            disable=None if is_first else True,  # None: only on a terminal.
            # By default tqdm prints an empty bar where the terminal has no known size.
            ncols=size.columns,
            nrows=size.lines,
            leave=False,
        )
        self._unread: tuple[range, Metrics] | None = None
        self._last_step, self._last_time = first_step, time.perf_counter()
        sizes = run.dataset.sizes
        if first_step < last_step:
            self.print(
                f"Training on {run.dataset.name} ({sizes['train']:,} examples; "
                f"{sizes['validation']:,} to validate, {sizes['test']:,} to test), "
                f"steps {first_step + 1} to {last_step}, in {run.workdir}"
            )
        else:
            self.print(f"{run.workdir}: complete at step {first_step}; nothing to train")

    def _open_events(self, state: TrainState) -> EventWriter:
        run, first_step = self._run, int(state.step)
        with writing_to(run.workdir):
            event_files.truncate(run.workdir, first_step)
        events = EventWriter(run.workdir)
        if first_step == 0:
            table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
            rows = "\n".join(f"| {name} | `{value!r}` |" for name, value in run.config.items())
            texts = {
                "parameters": f"```\n{table}\n```",
                "config": f"| field | value |\n|---|---|\n{rows}",
            }
            events.call("write_hparams", config_lib.hyperparameters(run.config))
            events.call("write_texts", 0, texts)
            shapes = jax.eval_shape(lambda: state)  # The state itself will be donated.
            events.submit(lambda: self._write_graphs(shapes))
        return events

    def _write_graphs(self, state: TrainState) -> None:
        from mnist_jax.reporting import graph

        try:
            for tag, (function, *arguments) in graphs(
                state, self._run.config.batch_size
            ).items():
                graph.write_graph(self._run.workdir, function, *arguments, tag=tag)
        except OSError:
            raise
        except Exception as error:  # A graph that can't be drawn must not end the training.
            terminal.print_warning(f"WARNING: no graph in TensorBoard: {first_line(error)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        self.profiler.close()
        # After a signal or on a full disk there is no time or room for figures.
        is_urgent = isinstance(error, PreemptedError | WriteError)
        failure = self._figures.close(wait=not is_urgent) if self._figures else None
        if failure and not is_urgent:
            terminal.print_warning(
                f"WARNING: figures are missing ({failure}); draw them by "
                f"python -m mnist_jax.evaluate --workdir {self._run.workdir} --figures DIR"
            )
        for writer in (self._journal, self._events):
            if writer:
                writer.close()

    def train(self, steps: range, metrics: Metrics) -> None:
        """Reports a device call: at once the one before it, this one at the next report.

        Reading metrics waits for the device. This way it already has the next call to do.

        Args:
          steps: The steps of the call.
          metrics: Those of `train_steps`.

        Raises:
          TrainingDivergedError: A number is not finite.
        """
        self.read_metrics()
        self._unread = steps, metrics

    def read_metrics(self) -> None:
        """Waits for the last device call and reports it; see `train`."""
        if self._unread is None:
            return
        (steps, metrics), self._unread = self._unread, None
        losses = np.asarray(metrics["loss"])
        for index in np.flatnonzero(~np.isfinite(losses))[:1]:
            self._raise_diverged("the loss", losses[index], steps[index])
        step = steps[-1]
        self._bar.update(step - self._bar.n)
        if step % self._run.config.log_every_steps:
            return
        now = time.perf_counter()
        steps_per_second = (step - self._last_step) / (now - self._last_time)
        self._last_step, self._last_time = step, now
        self.print(f"Step {step}: loss = {losses[-1]:.2f} ({steps_per_second:,.0f} steps/s)")
        scalars = {
            "train/loss": float(losses[-1]),
            "train/learning_rate": float(metrics["learning_rate"][-1]),
            "train/steps_per_second": steps_per_second,
        }
        if "grads" in metrics:
            scalars["train/grad_norm"] = float(metrics["grad_norm"][-1])
            self._write_histograms(step, {k: metrics[k] for k in ("params", "grads")})
        self._write_scalars(step, scalars)

    def evaluation(
        self, state: TrainState, results: Mapping[str, SplitResult], logits: Mapping[str, Any]
    ) -> None:
        """Reports the results of every split, and draws the figures of the test split.

        Args:
          state: The evaluated state.
          results: By split; see `eval_step.evaluate`.
          logits: By split; likewise.
        """
        step = int(state.step)
        scalars: dict[str, float] = {}
        for split, result in results.items():
            # `train/loss` is that of a batch; the whole split's loss is another curve.
            loss_tag = "train/eval_loss" if split == "train" else f"{split}/loss"
            scalars |= {f"{split}/accuracy": result.accuracy, loss_tag: result.loss}
        self._write_scalars(step, scalars)
        self.print_results(results)
        if self._figures and self._journal:
            images, labels = self._run.dataset.test
            self._figures.draw(
                dataset=self._run.dataset.name,
                split="test",
                step=step,
                journal=list(self._journal.lines),
                params=jax.device_get(state.params),
                labels=labels,
                images=images,
                logits=logits["test"],
            )

    def print_results(self, results: Mapping[str, SplitResult]) -> None:
        """Prints the tutorial's lines for every split."""
        for split, result in results.items():
            self.print(format_result(split, self._run.dataset.name, result))

    def restart_clock(self, step: int) -> None:
        """Excludes the time since the last report from the next report's speed."""
        self._last_step, self._last_time = step, time.perf_counter()

    def flush(self) -> None:
        """Passes all reports to the operating system.

        To be called before a checkpoint is saved, so that the files contain all it does.
        """
        for writer in (self._journal, self._events):
            if writer:
                writer.flush()

    def print(self, text: str) -> None:
        """Prints on stdout without breaking the progress bar."""
        if job.is_first_process():
            with writing_to("stdout"):
                self._bar.write(text, file=sys.stdout)
                sys.stdout.flush()

    def _write_histograms(self, step: int, trees: Any) -> None:
        arrays = {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
        }
        if self._events:
            self._events.call("write_histograms", step, arrays)

    def _write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for tag, value in scalars.items():
            if not math.isfinite(value):
                self._raise_diverged(tag, value, step)
        if self._journal and self._events:
            self._journal.write(step, self._run.dataset.name, scalars)
            self._events.call("write_scalars", step, scalars)

    def _raise_diverged(self, name: str, value: float, step: int) -> NoReturn:
        raise TrainingDivergedError(name, value, step, self._run.checkpoints.steps())

"""Reports a run: status lines, `metrics.jsonl`, TensorBoard, trackers, figures, results."""

import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import flax
import jax
import numpy as np
import tqdm

from mnist_jax.data.images import are_pictures
from mnist_jax.eval_step import Results
from mnist_jax.members import select
from mnist_jax.parallel import job
from mnist_jax.reporting import description, event_files
from mnist_jax.reporting.figure_worker import Evaluation, FigureWorker, first_layer_weights
from mnist_jax.reporting.journal import Journal
from mnist_jax.reporting.profiling import Profiler
from mnist_jax.reporting.tensorboard import EventWriter
from mnist_jax.run import Run
from mnist_jax.runtime import environment, run_folder, terminal
from mnist_jax.runtime.errors import TrainingDivergedError, WriteError, first_line, writing_to
from mnist_jax.runtime.files import replacing
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.runtime.signals import PreemptedError
from mnist_jax.tasks import format_spread
from mnist_jax.train_step import Metrics, TrainState

# Called with a step and its numbers, such as `test/accuracy`, after the journal has them. A
# resumed run repeats the steps after its checkpoint.
Tracker = Callable[[int, Mapping[str, float]], object]


def summarize(value: Any) -> dict[str, float]:
    """Returns a number by the suffix "", or of several members' the mean.

    With `_std`, `_min` and `_max` as well: their (sample) standard deviation and range.
    """
    summary = {"": float(np.mean(value))}
    if np.ndim(value):
        summary["_std"] = float(np.std(value, ddof=1))
        summary |= {"_min": float(np.min(value)), "_max": float(np.max(value))}
    return summary


class Reporter:
    """Reports a run; a context manager that writes everything out at its end.

    In a job every process reads the metrics, and only the first one writes and prints.

    Attributes:
      profiler: Traces the steps of `config.profile_steps`.
      draws: Whether figures of evaluations are drawn.
    """

    def __init__(
        self,
        run: Run,
        state: TrainState,
        saved: Manifest | None,
        trackers: Sequence[Tracker],
        *,
        is_over: bool,
        quiet: bool,
    ):
        """Opens the files, and removes what an earlier attempt reported after `state.step`.

        `saved` is the manifest of the checkpoint that the run is resumed from. `is_over`:
        nothing is left to train. `quiet`: nothing but warnings is printed.

        Raises:
          UserError: The journal is not what the run wrote up to the checkpoint.
          WriteError: A file can't be written; also from every other method.
        """
        config, first_step = run.config, int(state.step)
        self._run, self._is_first = run, job.is_first_process()
        self._trackers = list(trackers)
        self._unread: tuple[range, Metrics] | None = None
        self._figures: FigureWorker | None = None
        self._first_step = first_step
        self._is_silent = quiet or not self._is_first
        self._bar = tqdm.tqdm(
            total=config.num_train_steps,
            initial=first_step,
            unit=" steps",
            # None: unless stderr is a terminal. In a narrow one nothing of a bar is seen.
            disable=self._is_silent or shutil.get_terminal_size().columns < 20 or None,
            dynamic_ncols=True,
            leave=False,
            # The terminal writes `^C` at its cursor: over the bar, or amid a write after it, in
            # the two columns that are left: each "\r" counts as one.
            bar_format="{l_bar}{bar}{r_bar}\r\r",
        )
        profile_steps = config.profile_steps if self._is_first else ()
        self.profiler = Profiler(run.workdir, profile_steps, self._print)
        sha256 = saved and saved.journal_sha256
        job.broadcast_from_first(lambda: self._open_journal(first_step, sha256))
        table = description.parameters(state, config.num_seeds)
        if self._is_first:
            with writing_to(run.workdir):
                for sub_run in ("", *run_folder.SUB_RUNS):
                    event_files.truncate(run.workdir / sub_run, first_step)
            self._events = EventWriter(run.workdir)
            if first_step == 0:
                description.write(run, state, table, self._events)
        self.restart_clock(first_step)
        if is_over:
            self._print(f"{run.workdir}: complete at step {first_step}; nothing to train")
        else:
            sizes = run.dataset.sizes
            self._print(
                f"Training on {run.dataset.name} ({sizes['train']:,} examples; "
                f"{sizes['validation']:,} to validate, {sizes['test']:,} to test), "
                f"steps {first_step + 1} to {config.num_train_steps}, in {run.workdir}\n{table}"
            )
        self.draws = self._is_first and config.figures and not is_over

    def _open_journal(self, first_step: int, sha256: str | None) -> None:
        self._journal = Journal(self._run.workdir, first_step, sha256)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._bar.close()
        self.profiler.close()
        if self._figures:
            # After a signal or on a full disk there is no time or room for figures.
            is_urgent = isinstance(error, PreemptedError | WriteError)
            signals = self._run.signals
            failure = self._figures.close(lambda: is_urgent or signals.signum)
            if failure and not is_urgent:
                terminal.print_warning(
                    f"WARNING: figures are missing ({failure}); draw them by "
                    f"{self._command('evaluate')} --figures DIR"
                )
        if self._is_first:
            self._journal.close()
            self._events.close()

    def train(self, steps: range, metrics: Metrics) -> None:
        """Reports the device call before this one; this one is reported by the next report.

        Reading metrics waits for the device, which by now is busy with this call.

        Raises:
          TrainingDivergedError: A number is not finite; also from `read_metrics`.
        """
        if self.draws and not self._figures:
            # Not earlier: its imports would delay the tracing of the first call.
            self._figures = FigureWorker(self._run.workdir)
        self.read_metrics()
        self._unread = steps, metrics

    def read_metrics(self) -> None:
        """Waits for the last device call and reports it."""
        if self._unread is None:
            return
        (steps, metrics), self._unread = self._unread, None
        jax.block_until_ready(metrics)  # Raises where one of them did not fit into memory.
        step, losses = steps[-1], np.asarray(metrics["loss"])
        for index, *member in np.argwhere(~np.isfinite(losses)):
            self._check_finite("the loss", losses[index, *member], steps[index])
        self._bar.update(step - self._bar.n)
        if step % self._run.config.log_every_steps:
            return
        steps_per_second = (step - self._clock_step) / (time.perf_counter() - self._clock)
        self.restart_clock(step)
        num_seeds = self._run.config.num_seeds
        unit = "steps/s" + (f" of {num_seeds} seeds" if num_seeds > 1 else "")
        loss = format_spread(losses[-1], ".2f")
        self._print(f"Step {step}: loss = {loss} ({steps_per_second:,.0f} {unit})")
        scalars = {
            "loss": losses[-1],
            "learning_rate": float(np.ravel(metrics["learning_rate"][-1])[0]),
            "steps_per_second": steps_per_second,
        }
        if "grads" in metrics:
            scalars["grad_norm"] = np.asarray(metrics["grad_norm"][-1])
            if self._is_first:
                trees = jax.device_get({name: metrics[name] for name in ("params", "grads")})
                arrays = flax.traverse_util.flatten_dict(trees, sep="/")
                self._events.call("write_histograms", step, arrays)
        self._write_scalars(step, {"batch": scalars})

    def evaluation(
        self, state: TrainState, results: Results, outputs: Mapping[str, np.ndarray]
    ) -> None:
        """Reports what `eval_step.evaluate` returned, and draws figures of the test split.

        At step 0, and of the validation split alone, nothing is printed or drawn. A complete
        run's results are only printed.
        """
        run, step = self._run, int(state.step)
        if step > self._first_step or step == 0:
            self._write_scalars(step, results)
        best, _ = run.task.best
        value = format_spread(results["validation"][best], ".4f")
        self._bar.set_postfix_str(f"validation {best} {value}", refresh=False)
        if step == 0 or "test" not in results:
            return
        for split, result in results.items():
            self._print(run.task.report(split, run.dataset.name, result))
        if self._figures:
            data, journal = run.dataset, [*self._journal.lines]
            params = select(state.params, 0, run.config.num_seeds)
            weights = first_layer_weights(run.model, params, data)
            self._figures.draw(
                Evaluation(run.task, data, "test", step, outputs["test"], journal, weights)
            )

    def complete(self, step: int, results: Results, best: Mapping[str, Any] | None) -> None:
        """Writes `results.json`, completely or not at all, and prints what can be done next.

        `best` is `Manifest.early_stopping`, and says why the run ended, if that is early.
        """
        if not self._is_first:
            return
        run, path = self._run, self._run.workdir / "results.json"
        report = {"step": step, "dataset": run.dataset.name, "splits": results}
        report |= {"environment": environment.describe(), "config": run.config.to_dict()}
        with writing_to(path), replacing(path) as file:
            file.write(json.dumps(report, indent=1, default=np.ndarray.tolist).encode())
        if best and step < run.config.num_train_steps:
            self._print(
                f"Stopped early at step {step}: in {best['evals']} evaluations validation "
                f"{best['name']} was not better than {best['value']:.4f} at step {best['step']}"
            )
        start = self._journal.lines[0].get("train/loss", np.inf)
        if (loss := np.mean(results["train"]["loss"])) >= start:
            problem = f"the training loss at the end, {loss:.4g}, is not below that at step 0"
            terminal.print_warning(f"WARNING: {problem}; lower config.learning_rate")
        # Below `runs`, TensorBoard shows a run by its name, beside the others.
        logdir = run.workdir.parent if "runs" in run.workdir.parts[-3:-1] else run.workdir
        commands = [self._command("evaluate")]
        if are_pictures(run.dataset.input):
            commands += [self._command("demo")]
        if run.is_from_python:  # Commands would not have its objects.
            own = "".join(f", {kind}=..." for kind in run.manifest.own_code)
            commands = [f"mnist_jax.restoring.restore({str(run.workdir)!r}{own}) in Python"]
        lines = "\n  ".join([f"tensorboard --logdir {shlex.quote(str(logdir))}", *commands])
        self._print(f"Complete: {path} contains the results. Next:\n  {lines}")

    def _command(self, name: str) -> str:
        """Returns a command that uses the run, with what it needs of the user's own code."""
        run = self._run
        folder = shlex.quote(str(run.workdir))
        own = (f" --{k} {shlex.quote(x['name'])}" for k, x in run.manifest.own_code.items())
        return f"mnist-jax {name} --workdir {folder}{''.join(own)}"

    def _print(self, text: str) -> None:
        """Prints lines on stdout without breaking the progress bar."""
        if not self._is_silent:
            with writing_to("stdout"):
                self._bar.write(terminal.printable(text, keep="\n"), file=sys.stdout)
                sys.stdout.flush()

    def restart_clock(self, step: int) -> None:
        """Excludes the time since the last report from the next report's speed."""
        self._clock_step, self._clock = step, time.perf_counter()

    def flush(self) -> str | None:
        """Writes all reports, so that a save loses none; returns the journal's SHA-256."""
        if not self._is_first:
            return None
        self._events.flush()
        return self._journal.flush()

    def _write_scalars(self, step: int, groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the scalars of "batch", a training step, or of each split's evaluation."""
        line: dict[str, float] = {}
        tags: dict[str, dict[str, float]] = {}  # TensorBoard's, by its sub-run.
        ranged: list[str] = []
        for group, values in groups.items():
            # TensorBoard's tabs begin with the evaluations: "all" sorts before "batch".
            run, prefix = ("train", "batch") if group == "batch" else (group, "all")
            tags[run] = {}
            for name, value in values.items():
                if np.asarray(value).dtype.kind in "iu":  # A count.
                    continue
                if group == "validation" and np.ndim(value):
                    ranged.append(f"{prefix}/{name}")
                for suffix, number in summarize(value).items():
                    tag = f"{name}{suffix}"
                    if group == "batch" or tag == "loss":
                        self._check_finite(f"{group}/{tag}", number, step)
                    if math.isfinite(number):  # A metric may have no value, such as 0/0.
                        line[f"{group}/{tag}"] = number
                        tags[run][f"{'range/' if suffix else ''}{prefix}/{tag}"] = number
        if not self._is_first:
            return
        self._journal.write(step, self._run.dataset.name, line)
        self._track(step, line)
        if step == 0:  # Of a few points, TensorBoard's smoothing would hide the last.
            tags = {"validation": tags["validation"]}
            if ranged:
                self._events.write_ranges(ranged)
        for run, scalars in tags.items():
            self._events.call("write_scalars", step, scalars, run=run)

    def _track(self, step: int, line: Mapping[str, float]) -> None:
        for tracker in list(self._trackers):
            try:
                tracker(step, dict(line))
            except Exception as error:  # Of any type: it must not end the training.
                self._trackers.remove(tracker)
                problem = f"{type(error).__name__}: {first_line(error)}"
                terminal.print_warning(f"WARNING: a tracker is not called again: {problem}")

    def _check_finite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingDivergedError(name, value, step, self._run.checkpoints.steps())

"""Reports a run: status lines, a progress bar, `metrics.jsonl`, TensorBoard, figures."""

import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import flax
import flax.linen as nn
import jax
import numpy as np
import tqdm
from clu.parameter_overview import get_parameter_overview

from mnist_jax.data.datasets import Dataset
from mnist_jax.eval_step import Results
from mnist_jax.members import select
from mnist_jax.parallel import job
from mnist_jax.reporting import event_files
from mnist_jax.reporting.figure_worker import FigureWorker
from mnist_jax.reporting.journal import Journal
from mnist_jax.reporting.profiling import Profiler
from mnist_jax.reporting.tensorboard import EventWriter
from mnist_jax.run import Run
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import environment, run_folder, terminal
from mnist_jax.runtime.errors import TrainingDivergedError, WriteError, first_line, writing_to
from mnist_jax.runtime.files import replacing
from mnist_jax.runtime.signals import PreemptedError
from mnist_jax.train_step import Metrics, TrainState, Variables, train_step

_COUNTS = {"num_examples", "num_correct", "committee_num_correct"}
# TensorBoard's curves of several members, by what follows the sub-run's name.
_CURVES: dict[str, Callable[..., Any]] = {"": np.mean, "/min": np.min, "/max": np.max}
_TITLES = {"train": "Training", "validation": "Validation", "test": "Test"}


def format_result(split: str, dataset_name: str, result: Mapping[str, Any]) -> str:
    """Returns the tutorial's two lines; names any dataset but the tutorial's own.

    Of several members: the means and standard deviations, and a line of their committee.
    """
    dataset = "" if dataset_name == "mnist" else f" [{dataset_name}]"
    text = (
        f"{_TITLES[split]} Data Eval:{dataset}\n"
        f"  Num examples: {result['num_examples']}"
        f"  Num correct: {format_spread(result['num_correct'], '.0f')}"
        f"  Precision @ 1: {format_spread(result['accuracy'], '0.04f')}"
    )
    if np.ndim(result["accuracy"]):
        text += (
            f" ({len(result['accuracy'])} seeds)\n"
            f"  Their committee: Num correct: {result['committee_num_correct']}"
            f"  Precision @ 1: {result['committee_accuracy']:0.04f}"
        )
    return text


def format_spread(value: Any, spec: str) -> str:
    """Formats a number, or of several members' the mean ± the (sample) standard deviation."""
    spread = f" ± {np.std(value, ddof=1):{spec}}" if np.ndim(value) else ""
    return f"{np.mean(value):{spec}}{spread}"


def summarize(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns numbers as they are, and of several members' the mean by the same name.

    With `_std`, `_min` and `_max` after the name: their (sample) standard deviation and range.
    """
    summary: dict[str, float] = {}
    for name, value in values.items():
        summary[name] = float(np.mean(value))
        if np.ndim(value):
            summary[f"{name}_std"] = float(np.std(value, ddof=1))
            summary[f"{name}_min"] = float(np.min(value))
            summary[f"{name}_max"] = float(np.max(value))
    return summary


def graphs(
    state: TrainState, batch_size: int, image_shape: Sequence[int]
) -> dict[str, tuple[Any, ...]]:
    """Returns by tag the functions that the Graphs tab shows, each with its arguments."""
    state = jax.eval_shape(lambda: state)
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), np.uint8)
    labels = jax.ShapeDtypeStruct((batch_size,), np.int32)

    def forward(variables: Variables, images: jax.Array) -> jax.Array:
        return state.apply_fn(variables, images, train=False)

    return {
        "forward": (forward, state.variables, images),
        "train_step": (train_step, state, {"image": images, "label": labels}),
    }


def figure_arguments(
    model: nn.Module, params: Variables, dataset: Dataset, split: str, logits: np.ndarray
) -> dict[str, Any]:
    """Returns the arguments of `figures.Evaluation` but the step and the journal.

    `params` are a single member's; `logits`, `float32[n, num_classes]`, those of the split.
    """
    weights = None
    try:
        if create := getattr(model, "first_layer_images", None):  # See `models`.
            weights = create(jax.device_get(params), dataset.image_shape)
    except Exception as error:  # Of any type: it must not end the training.
        terminal.print_warning(f"WARNING: no figure of the first layer: {first_line(error)}")
    return {
        "dataset": dataset.name,
        "class_names": dataset.class_names,
        "split": split,
        "weights": weights,
        "labels": dataset.splits[split].label,
        "images": dataset.splits[split].image,
        "logits": logits,
    }


def _table(values: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | `{value!r}` |" for name, value in values.items())
    return f"| name | value |\n|---|---|\n{rows}"


class Reporter:
    """Reports a run; a context manager that writes everything out at its end.

    In a job every process reads the metrics, and only the first one writes and prints.

    Attributes:
      profiler: Traces the steps of `config.profile_steps`.
    """

    def __init__(self, run: Run, state: TrainState):
        """Opens the files, and removes what an earlier attempt reported after `state.step`.

        Raises:
          UserError: The journal is not what the run wrote up to the checkpoint.
          WriteError: A file can't be written; also from every other method.
        """
        config, first_step = run.config, int(state.step)
        self._run, self._is_first = run, job.is_first_process()
        self._unread: tuple[range, Metrics] | None = None
        self._figures: FigureWorker | None = None
        self._first_step = first_step
        stderr = sys.stderr
        columns, lines = shutil.get_terminal_size()
        self._bar = tqdm.tqdm(
            total=config.num_train_steps,
            initial=first_step,
            unit=" steps",
            file=stderr,
            disable=None if self._is_first else True,  # None: only on a terminal.
            # Without a known size of the terminal, tqdm would print an empty bar.
            dynamic_ncols=stderr.isatty() and os.get_terminal_size(stderr.fileno()).columns > 0,
            ncols=columns,
            nrows=lines,
            leave=False,
        )
        profile_steps = config.profile_steps if self._is_first else ()
        self.profiler = Profiler(run.workdir, profile_steps, self.print)
        job.broadcast_from_first(lambda: self._open_journal(first_step))
        if self._is_first:
            with writing_to(run.workdir):
                for sub_run in ("", *run_folder.SUB_RUNS):
                    event_files.truncate(run.workdir / sub_run, first_step)
            self._events = EventWriter(run.workdir)
            if first_step == 0:
                self._describe(state)
        self.restart_clock(first_step)
        if first_step >= config.num_train_steps:
            self.print(f"{run.workdir}: complete at step {first_step}; nothing to train")
            return
        sizes = run.dataset.sizes
        self.print(
            f"Training on {run.dataset.name} ({sizes['train']:,} examples; "
            f"{sizes['validation']:,} to validate, {sizes['test']:,} to test), "
            f"steps {first_step + 1} to {config.num_train_steps}, in {run.workdir}"
        )

    def _open_journal(self, first_step: int) -> None:
        saved = self._run.checkpoints.manifest(first_step) if first_step else None
        self._journal = Journal(self._run.workdir, first_step, saved and saved.journal_sha256)

    def _describe(self, state: TrainState) -> None:
        """Writes what the HParams, Text and Graphs tabs show of the run."""
        config = self._run.config
        state = select(state, 0, config.num_seeds)
        parameters = get_parameter_overview(state.params, include_stats=False)
        texts = {
            "parameters": f"```\n{parameters}\n```",
            "config": _table(config),
            "environment": _table(environment.describe()),
        }
        functions = graphs(state, config.batch_size, self._run.dataset.image_shape)
        trial = "/".join(self._run.workdir.parts[-2:])
        self._events.write_hparams(config_lib.hyperparameters(config), trial)
        self._events.call("write_texts", 0, texts)
        self._events.submit(lambda: self._write_graphs(functions))

    def _write_graphs(self, functions: Mapping[str, tuple[Any, ...]]) -> None:
        from mnist_jax.reporting import graph

        try:
            for tag, (function, *arguments) in functions.items():
                graph.write_graph(self._run.workdir, function, *arguments, tag=tag)
        except OSError:
            raise
        except Exception as error:  # Of any type: it must not end the training.
            terminal.print_warning(f"WARNING: no graph for TensorBoard: {first_line(error)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._bar.close()
        self.profiler.close()
        if self._figures:
            # After a signal or on a full disk there is no time or room for figures.
            is_urgent = isinstance(error, PreemptedError | WriteError)
            signals = self._run.signals
            failure = self._figures.close(
                wait=not is_urgent, should_stop=lambda: signals.signum
            )
            if failure and not is_urgent:
                terminal.print_warning(
                    f"WARNING: figures are missing ({failure}); draw them by "
                    f"python -m mnist_jax.evaluate --workdir {self._run.workdir} --figures DIR"
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
        if self._is_first and self._run.config.figures and not self._figures:
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
        self.print(f"Step {step}: loss = {loss} ({steps_per_second:,.0f} {unit})")
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
        self, state: TrainState, results: Results, logits: Mapping[str, Any]
    ) -> None:
        """Reports what `committee.evaluate` returned, and draws figures of the test split.

        At step 0 nothing is printed or drawn. A complete run's results are only printed.
        """
        step, dataset = int(state.step), self._run.dataset
        if step > self._first_step or step == 0:
            self._write_scalars(step, results)
        if step == 0:
            return
        for split, result in results.items():
            self.print(format_result(split, dataset.name, result))
        if self._figures:
            params = select(state.params, 0, self._run.config.num_seeds)
            arguments = figure_arguments(
                self._run.model, params, dataset, "test", logits["test"]
            )
            self._figures.draw(step=step, journal=list(self._journal.lines), **arguments)

    def complete(self, step: int, results: Results) -> None:
        """Writes `results.json`, completely or not at all, and prints what can be done next."""
        run = self._run
        report = {"step": step, "dataset": run.dataset.name, "splits": results}
        report |= {"environment": environment.describe(), "config": run.config.to_dict()}
        path, folder = run.workdir / "results.json", shlex.quote(str(run.workdir))
        if self._is_first:
            with writing_to(path), replacing(path) as file:
                file.write(json.dumps(report, indent=1, default=np.ndarray.tolist).encode())
        self.print(
            f"Complete: {path} contains the results. Next:\n"
            f"  tensorboard --logdir {folder}\n"
            f"  python -m mnist_jax.evaluate --workdir {folder}\n"
            f"  python -m mnist_jax.demo --workdir {folder}"
        )

    def restart_clock(self, step: int) -> None:
        """Excludes the time since the last report from the next report's speed."""
        self._clock_step, self._clock = step, time.perf_counter()

    def flush(self) -> str | None:
        """Writes all reports, so that a save loses none; returns the journal's SHA-256."""
        if not self._is_first:
            return None
        self._events.flush()
        return self._journal.flush()

    def print(self, text: str) -> None:
        """Prints on stdout without breaking the progress bar."""
        if self._is_first:
            with writing_to("stdout"):
                self._bar.write(text, file=sys.stdout)
                sys.stdout.flush()

    def _write_scalars(self, step: int, groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the scalars of "batch", a training step, or of each split's evaluation."""
        groups = {
            group: {name: values[name] for name in values if name not in _COUNTS}
            for group, values in groups.items()
        }
        summaries = {group: summarize(values) for group, values in groups.items()}
        line = flax.traverse_util.flatten_dict(summaries, sep="/")
        for tag, value in line.items():
            self._check_finite(tag, value, step)
        if self._is_first:
            self._journal.write(step, self._run.dataset.name, line)
            for group, values in groups.items():
                # TensorBoard's tabs begin with the evaluations: "all" sorts before "batch".
                run, prefix = ("train", "batch") if group == "batch" else (group, "all")
                for suffix, reduce in _CURVES.items():
                    tags = {
                        f"{prefix}/{name}": float(reduce(value))
                        for name, value in values.items()
                        if np.ndim(value) or not suffix
                    }
                    if tags:
                        self._events.call("write_scalars", step, tags, run=run + suffix)

    def _check_finite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingDivergedError(name, value, step, self._run.checkpoints.steps())

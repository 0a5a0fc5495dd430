"""The order of events: load, create or restore, then step, report, evaluate, save."""

import contextlib
import functools
import math
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

from mnist_jax import checkpointing, input_pipeline, optimizers
from mnist_jax.checkpointing import Checkpoints, Manifest
from mnist_jax.data import tfds_source
from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.parallel import devices
from mnist_jax.reporting import reporter as reporting
from mnist_jax.reporting.profiling import Profiler
from mnist_jax.reporting.reporter import Reporter, Silence, SplitResult
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import run_folder, terminal
from mnist_jax.runtime.errors import DamagedCheckpointError, TrainingDivergedError
from mnist_jax.runtime.signals import PreemptedError, SignalWatch
from mnist_jax.train_step import (
    ApplyFn,
    Metrics,
    Params,
    all_finite,
    create_train_state,
    eval_steps,
    train_step,
    train_steps,
)

EvalIndices = Mapping[str, np.ndarray]


@devices.use_all()
def train_and_evaluate(
    config: ConfigDict, workdir: str | Path | None = None, *, name: str = "default"
) -> TrainState:
    """Trains to `config.num_train_steps`, reporting, evaluating and saving on the way.

    Args:
      config: See `configs/default.py`.
      workdir: The run's folder. Where it holds a run, that run goes on from its newest
        checkpoint, and ends with the bits it would have had without the interruption.
        None: a new folder, `runs/<name>/<YYYYMMDD-HHMMSS>`.
      name: Names the new folder.

    Returns:
      The state after the last step.

    Raises:
      UserError: In the config, the data or the workdir; nothing on disk has changed.
      TrainingDivergedError: Loss or state are no longer finite.
      PreemptedError: SIGTERM or SIGINT came; the state is saved.
    """
    config_lib.validate(config)
    workdir = None if workdir is None else run_folder.locate(workdir)
    newest = newest_manifest(workdir) if workdir else None
    config = _resolve(config, newest, workdir)
    dataset = _load_dataset(config, newest)
    _check_alike(config, workdir, newest, dataset)
    config_lib.check_batch_size(config, dataset.sizes["train"])
    state = create_train_state(config, dataset.num_classes)
    examples = devices.put(dataset.examples)
    eval_indices = input_pipeline.eval_indices(dataset.sizes, config.eval_batch_size)

    if workdir and newest and newest.step >= config.num_train_steps:
        with Checkpoints(workdir) as checkpoints:
            state = checkpoints.restore(newest.step, state)
        results, logits = evaluate(state.params, state.apply_fn, examples, eval_indices)
        tags = graphs(state, config.batch_size)
        is_whole = functools.partial(
            reporting.is_whole, workdir, newest.step, tags, has_figures=config.figures
        )
        if not devices.agree(is_whole):
            with _claim(workdir), _open_reporter(config, workdir, state) as reporter:
                if devices.agree(lambda: reporter.lacks_figures(newest.step)):
                    _draw_figures(reporter, state, dataset.test, logits["test"])
        if devices.is_first():
            print(f"{workdir}: complete at step {newest.step}; nothing to train")
            for split, result in results.items():
                print(reporting.format_result(split, dataset.name, result))
        return state

    workdir = workdir or _create_workdir(name)
    with _claim(workdir), SignalWatch() as watch:
        state = _restore_newest(state, config, workdir)
        with Checkpoints(workdir, keep=config.keep_checkpoints) as checkpoints:
            return _train(
                config, workdir, dataset, examples, eval_indices, state, checkpoints, watch
            )


def _resolve(config: ConfigDict, newest: Manifest | None, workdir: Path | None) -> ConfigDict:
    """Returns a copy that holds what the run really uses, wherever it is read later."""
    config = ConfigDict(config).unlock()
    config.data_dir = str(tfds_source.data_dir(config))
    config.manual_dir = str(tfds_source.manual_dir(config))
    if newest:
        if newest.config.dataset == config.fallback_dataset:
            # The run fell back when it began, and goes on with what it began with.
            config.dataset = config.fallback_dataset
        config_lib.check_resumable(config, newest.config, str(workdir))
    return config.lock()


def _load_dataset(config: ConfigDict, newest: Manifest | None) -> Dataset:
    """Loads it in the first process, then in the others.

    So it is prepared once, and what the first one falls back to holds for all.
    """

    @functools.cache
    def load() -> Dataset:
        return input_pipeline.load(config, may_fall_back=newest is None)

    config.dataset = devices.agree(lambda: load().name)
    return load()


def _check_alike(
    config: ConfigDict, workdir: Path | None, newest: Manifest | None, dataset: Dataset
) -> None:
    """Raises an error unless all processes are about to do the same."""
    places = {"data_dir": None, "manual_dir": None}  # Each machine's own.
    devices.check_alike("config", config.to_dict() | places)
    devices.check_alike("workdir", workdir, newest and newest.step)
    devices.check_alike(f"dataset {config.dataset}", *dataset.examples, dict(dataset.sizes))


def _create_workdir(name: str) -> Path:
    return Path(devices.agree(lambda: str(run_folder.create_new(Path("runs") / name))))


@contextlib.contextmanager
def _claim(workdir: Path) -> Iterator[None]:
    """Claims the workdir by the first process, for all."""
    with contextlib.ExitStack() as stack:
        devices.agree(lambda: stack.enter_context(run_folder.claim(workdir)))
        yield


def newest_manifest(workdir: Path) -> Manifest | None:
    """Returns the manifest of the newest checkpoint that has a good one, if any has."""
    if not checkpointing.exist(workdir):
        return None
    with Checkpoints(workdir) as checkpoints:
        for step in reversed(checkpoints.steps()):
            try:
                return checkpoints.manifest(step)
            except DamagedCheckpointError:
                continue
    return None


def _restore_newest(state: TrainState, config: ConfigDict, workdir: Path) -> TrainState:
    """Returns the newest good checkpoint's state, else the one given."""
    checkpoints = Checkpoints(workdir)
    restore = functools.cache(lambda step: checkpoints.restore(step, state))

    def choose() -> int | None:
        for step in reversed(checkpoints.steps()):
            try:
                # Once more, now that no other process can begin a run here.
                config_lib.check_resumable(
                    config, checkpoints.manifest(step).config, str(workdir)
                )
                restore(step)
                return step
            except DamagedCheckpointError as error:
                destination = checkpoints.set_aside(step)
                terminal.print_warning(f"WARNING: {error}; moved to {destination}")
        return None

    step = devices.agree(choose)
    return state if step is None else restore(step)


def _train(
    config: ConfigDict,
    workdir: Path,
    dataset: Dataset,
    examples: Split,
    eval_indices: EvalIndices,
    state: TrainState,
    checkpoints: Checkpoints,
    watch: SignalWatch,
) -> TrainState:
    first_step = int(state.step)
    sizes = dataset.sizes
    learning_rate = optimizers.create_learning_rate_schedule(config)
    with (
        _open_reporter(config, workdir, state) as reporter,
        Profiler(
            workdir, config.profile_steps if devices.is_first() else (), reporter.print
        ) as profiler,
        devices.ending_with_a_lost_process(),
    ):
        reporter.print(
            f"Training on {dataset.name} ({sizes['train']:,} examples; "
            f"{sizes['validation']:,} to validate, {sizes['test']:,} to test), "
            f"steps {first_step + 1} to {config.num_train_steps}, in {workdir}"
        )

        if devices.agree(lambda: reporter.lacks_figures(first_step)):
            # An attempt that was killed after its save did not come to draw them.
            _, logits = evaluate(state.params, state.apply_fn, examples, eval_indices)
            _draw_figures(reporter, state, dataset.test, logits["test"])

        def report(steps: range, metrics: Metrics) -> None:
            """Reads a call's metrics: waits for it, while the next may already run."""
            losses = np.asarray(metrics["loss"])
            bad = np.flatnonzero(~np.isfinite(losses))
            if bad.size:
                raise _diverged(steps[bad[0]], "the loss", losses[bad[0]], checkpoints)
            last = steps[-1]
            reporter.progress(last)
            if last % config.log_every_steps:
                return
            scalars = [float(losses[-1]), float(learning_rate(last - 1))]
            if config.log_histograms:
                grad_norm = float(metrics["grad_norm"][-1])
                if not math.isfinite(grad_norm):
                    raise _diverged(last, "the gradient's norm", grad_norm, checkpoints)
                scalars.append(grad_norm)
                trees = {"params": metrics["params"], "grads": metrics["grads"]}
                reporter.histograms(last, trees)
            reporter.train(last, *scalars)

        unreported = None
        for steps in device_calls(config, first_step):
            indices = input_pipeline.batch_indices(
                config.seed, steps, config.batch_size, sizes["train"]
            )
            detailed = config.log_histograms and steps[-1] % config.log_every_steps == 0
            state, metrics = profiler.call(
                steps, train_steps, state, *examples, indices, detailed=detailed
            )
            if unreported:
                report(*unreported)
            unreported = (steps, metrics)

            step, is_last = steps[-1], steps[-1] == config.num_train_steps
            eval_is_due = is_last or step % config.eval_every_steps == 0
            # Read once: what follows, and all processes, must agree on it.
            stop = devices.highest(watch.signum or 0)
            save_is_due = is_last or stop or step % config.checkpoint_every_steps == 0
            if not (eval_is_due or save_is_due):
                continue
            report(*unreported)
            unreported = None
            if not all_finite((state.params, state.opt_state)):
                raise _diverged(step, "a parameter", math.nan, checkpoints)
            validation_accuracy = None
            if eval_is_due:
                results, logits = evaluate(state.params, state.apply_fn, examples, eval_indices)
                reporter.evaluation(step, results)
                validation_accuracy = results["validation"].accuracy
                if config.figures:
                    _draw_figures(reporter, state, dataset.test, logits["test"])
            if save_is_due:
                reporter.flush()
                checkpoints.save(state, config, dataset.num_classes, validation_accuracy)
            reporter.restart_clock(step)
            if stop and not is_last:
                raise PreemptedError(
                    stop,
                    f"Stopped by {signal.Signals(stop).name} after step {step}, which "
                    f"is saved; go on with the same command and --workdir {workdir}",
                )
    return state


def _draw_figures(
    reporter: Reporter | Silence, state: TrainState, test: Split, logits: np.ndarray
) -> None:
    arrays = figure_arrays(state.params, test, logits)
    reporter.figures(int(state.step), **arrays)


@contextlib.contextmanager
def _open_reporter(
    config: ConfigDict, workdir: Path, state: TrainState
) -> Iterator[Reporter | Silence]:
    """Opens what reports the run, with what TensorBoard shows of it before the first step."""
    if not devices.is_first():
        yield Silence()
        return
    parameter_table = parameter_overview.get_parameter_overview(
        state.params,
        include_stats=False,  # Of the model, not of the step that this attempt starts from.
    )
    with Reporter(workdir, config, parameter_table, int(state.step)) as reporter:
        for tag, (function, *example_args) in graphs(state, config.batch_size).items():
            reporter.graph(tag, function, *example_args)
        yield reporter


def graphs(state: TrainState, batch_size: int) -> dict[str, tuple[Any, ...]]:
    """Returns what TensorBoard's Graphs tab shows: by tag, a function and its arguments."""
    state = jax.eval_shape(lambda: state)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, 28, 28), np.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }

    def forward(params: Params, images: jax.Array) -> jax.Array:
        return state.apply_fn({"params": params}, images)

    return {
        "forward": (forward, state.params, batch["image"]),
        "train_step": (train_step, state, batch),
    }


def device_calls(config: ConfigDict, first_step: int) -> Iterator[range]:
    """Cuts the steps after `first_step` into device calls.

    A call ends after `steps_per_call` steps, or earlier, where something is due. A step
    that is looked into has one of its own.

    Yields:
      The steps of each call, from `first_step + 1` to `num_train_steps`.
    """
    intervals = (
        config.log_every_steps,
        config.eval_every_steps,
        config.checkpoint_every_steps,
    )
    first_traced, last_traced = config.profile_steps or (0, -1)

    def is_alone(step: int) -> bool:
        # The one before the trace too: so a call of one step is compiled outside of it.
        return first_traced - 1 <= step <= last_traced or (
            config.log_histograms and step % config.log_every_steps == 0
        )

    step = first_step
    while step < config.num_train_steps:
        due = [(step // interval + 1) * interval for interval in intervals]
        last = min(step + config.steps_per_call, config.num_train_steps, *due)
        alone = next(filter(is_alone, range(step + 1, last + 1)), last + 1)
        last = max(step + 1, alone - 1)
        yield range(step + 1, last + 1)
        step = last


def evaluate(
    params: Params, apply_fn: ApplyFn, examples: Split, eval_indices: EvalIndices
) -> tuple[dict[str, SplitResult], dict[str, np.ndarray]]:
    """Evaluates every example of some splits exactly once, in one device call.

    Args:
      params: The model's parameters.
      apply_fn: The model's `apply`.
      examples: All of the dataset's, on the devices; see `devices.put`.
      eval_indices: By split; see `input_pipeline.eval_indices`.

    Returns:
      By split the result; by split the logits of each example, in order,
      `float32[num_examples, num_classes]`.
    """
    indices = np.concatenate(list(eval_indices.values()))
    sums, rows = jax.device_get(eval_steps(params, *examples, indices, apply_fn=apply_fn))
    results, logits, start = {}, {}, 0
    for name, split in eval_indices.items():
        batches = slice(start, start + len(split))
        start = batches.stop
        logits[name] = rows[batches][split >= 0]
        total = jax.tree.map(lambda sums, batches=batches: sums[batches].sum(), sums)
        values = total.compute()
        results[name] = SplitResult(
            num_examples=int(total.accuracy.count),
            num_correct=int(total.accuracy.total),
            accuracy=float(values["accuracy"]),
            loss=float(values["loss"]),
        )
    return results, logits


def figure_arrays(params: Params, test: Split, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what `figures.draw` is to show of a model, by the names of its arguments.

    Args:
      params: The model's parameters.
      test: The split.
      logits: What `evaluate` gave for it.
    """
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    looks_at_image = "hidden1" if "hidden1" in params else "softmax_linear"
    return {
        "labels": test.label,
        "log_probabilities": log_probabilities,
        "misread": test.image[log_probabilities.argmax(axis=1) != test.label],
        "kernel": np.asarray(params[looks_at_image]["kernel"]),
    }


def _diverged(
    step: int, what: str, value: Any, checkpoints: Checkpoints
) -> TrainingDivergedError:
    steps = checkpoints.steps()
    good = f"the last good checkpoint is step {steps[-1]}" if steps else "none was saved before"
    return TrainingDivergedError(
        f"Training diverged: {what} is {value} at step {step}; {good}; "
        "lower config.learning_rate or set config.grad_clip_norm"
    )

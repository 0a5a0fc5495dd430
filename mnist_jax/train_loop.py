"""The order of events: create or restore the state, then step, report, evaluate, save."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import flax.linen as nn
from ml_collections import ConfigDict

from mnist_jax import members
from mnist_jax.data.datasets import SPLITS, Dataset
from mnist_jax.eval_step import Results, evaluate
from mnist_jax.parallel import job
from mnist_jax.reporting.reporter import Reporter, Tracker
from mnist_jax.run import open_run
from mnist_jax.runtime.signals import PreemptedError
from mnist_jax.tasks import Task, is_last, rate, update_best
from mnist_jax.train_step import TrainState, train_steps


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path | None = None,
    *,
    name: str = "default",
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    task: Task | None = None,
    trackers: Sequence[Tracker] = (),
    quiet: bool = False,
) -> TrainState:
    """Trains to `config.num_train_steps`; reports, evaluates and saves as the config says.

    Args:
      config: See `configs.default`.
      workdir: The run's folder. If it contains a run, that run is resumed from its newest
        checkpoint and ends with the same bits as without the interruption. None: a new
        folder, `runs/<name>/<YYYYMMDD-HHMMSS>`.
      name: Names the new folder.
      dataset: Your own, instead of the one that the config names.
      model: Your own, instead of the one that the config names; see `models`.
      task: Your own, instead of the one that the config names; see `tasks`.
      trackers: Called with each line of the journal, by step and name, in the first process.
      quiet: Prints nothing but warnings.

    Returns:
      The state after the last step.

    Raises:
      UserError: In the config, the data or the workdir; nothing on disk has changed.
      TrainingDivergedError: The loss or the state is no longer finite.
      PreemptedError: SIGTERM, SIGINT or SIGHUP came; the state is saved.
    """
    with open_run(config, workdir, name, dataset, model, task) as run:
        config, dataset, task = run.config, run.dataset, run.task  # As resolved: see `Run`.
        state, saved = run.checkpoints.restore_newest(run.create_state())
        step, best = int(state.step), saved and saved.early_stopping
        is_over = is_last(config, step, best)
        reporter = Reporter(run, state, saved, trackers, is_over=is_over, quiet=quiet)
        with reporter, job.exit_if_process_lost():

            def evaluate_splits(*splits: str) -> Results:
                results, outputs = evaluate(
                    state.variables,
                    state.apply_fn,
                    task,
                    run.source,
                    {split: run.eval_indices[split] for split in splits},
                    num_members=config.num_seeds,
                    keep=("test",) if reporter.draws else (),
                )
                reporter.evaluation(state, results, outputs)
                return results

            if step == 0 or is_over:
                results = evaluate_splits(*SPLITS)
                reporter.restart_clock(0)
            at_once = members.at_once(state)
            perform_steps = functools.partial(train_steps, members_at_once=at_once)
            for steps in () if is_over else device_calls(config, step):
                step = steps[-1]
                indices = members.batch_indices(config, steps, dataset.sizes["train"])
                examples, rows = run.source.feed(indices)
                detailed = is_detailed(config, step)
                state, metrics = reporter.profiler.call(
                    steps, perform_steps, state, examples, rows, detailed=detailed
                )
                # Reads the metrics of the call before this one: the device never waits.
                reporter.train(steps, metrics)
                # Read once, because all processes must agree on what follows.
                stop = job.max_over_processes(run.signals.signum or 0)
                is_end = step == config.num_train_steps
                eval_is_due = is_end or step % config.eval_every_steps == 0
                save_is_due = is_end or stop or step % config.checkpoint_every_steps == 0
                curve_is_due = run.validates_at_reports and step % config.log_every_steps == 0
                if not (eval_is_due or save_is_due or curve_is_due):
                    continue
                reporter.read_metrics()
                rating = None
                if eval_is_due:
                    results = evaluate_splits(*SPLITS)
                    rating = rate(task, results["validation"])
                    if rating and step % config.eval_every_steps == 0:
                        best = update_best(best, step, rating)
                        # So that the best one can be restored when training stops early.
                        save_is_due |= config.early_stopping_evals and best["step"] == step
                    is_end = is_last(config, step, best)
                elif curve_is_due:
                    evaluate_splits("validation")
                if save_is_due or is_end:
                    saved = run.manifest._replace(step=step, best=rating, early_stopping=best)
                    run.checkpoints.save(state, saved._replace(journal_sha256=reporter.flush()))
                reporter.restart_clock(step)
                if is_end:
                    break
                if stop:
                    raise PreemptedError(stop, step, run.workdir)
            reporter.complete(step, results, best)
    return state


def device_calls(config: ConfigDict, first_step: int) -> Iterator[range]:
    """Divides the steps after `first_step` into device calls.

    A call ends after `steps_per_call` steps, or earlier where a report, an evaluation or a
    checkpoint is due. Detailed and profiled steps run alone.

    Yields:
      The steps of each call, from `first_step + 1` to `num_train_steps`.
    """
    intervals = config.log_every_steps, config.eval_every_steps, config.checkpoint_every_steps
    first_profiled, last_profiled = config.profile_steps or (0, -1)

    def runs_alone(step: int) -> bool:
        # Also the step before the profiled ones: compiles a call of one step outside of them.
        return is_detailed(config, step) or first_profiled - 1 <= step <= last_profiled

    step = first_step
    while step < config.num_train_steps:
        due = [(step // interval + 1) * interval for interval in intervals]
        last = min(step + config.steps_per_call, config.num_train_steps, *due)
        alone = next(filter(runs_alone, range(step + 1, last + 1)), last + 1)
        last = max(step + 1, alone - 1)
        yield range(step + 1, last + 1)
        step = last


def is_detailed(config: ConfigDict, step: int) -> bool:
    """Returns whether histograms of parameters and gradients are due at this step."""
    return config.log_histograms and step % config.log_every_steps == 0

"""Draws the figures of a run in a process of its own, so that training does not wait."""

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mnist_jax.data.datasets import Dataset
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import first_line
from mnist_jax.tasks import Task


class FigureWorker:
    """Draws `<workdir>/figures/<name>.png`, and the same into an event file of its own."""

    def __init__(self, workdir: Path):
        """Starts the process, which begins to import matplotlib."""
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(pipe, workdir))
        resource_tracker.ensure_running()  # Its start unblocks signals.
        # The process inherits the blocked signals: those sent to a whole run don't end it.
        blocked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        # The process would import the main module: a script without a guard would train again.
        main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
        try:
            self._process.start()
        finally:
            sys.modules["__main__"] = main
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        pipe.close()
        atexit.register(self._process.kill)  # multiprocessing would wait for its end.
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._pipe.recv)  # No request begins before the imports are done.
        self._newest: Future[None] | None = None
        self._error: str | None = None

    def draw(self, **arguments: Any) -> None:
        """Requests `figures.draw`; replaces a request that has not begun; returns at once."""
        if self._newest:
            self._newest.cancel()
        self._newest = self._thread.submit(self._request, arguments)

    def close(
        self, *, wait: bool, should_stop: Callable[[], object] = lambda: False
    ) -> str | None:
        """Ends the process; returns the first error.

        Args:
          wait: Whether to wait for the newest request.
          should_stop: Ends the waiting; called ten times a second.
        """
        while wait and self._newest and not self._newest.done() and not should_stop():
            futures.wait([self._newest], timeout=0.1)
        if self._newest and not self._newest.done():
            self._error = self._error or "the run was stopped"
        self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._process.join()
        return self._error

    def _request(self, arguments: dict[str, Any]) -> None:
        try:
            self._pipe.send(arguments)
            error = self._pipe.recv()
        except (EOFError, OSError):
            error = "the process that draws them ended"
        self._error = self._error or error


def _serve(pipe: Any, workdir: Path) -> None:
    os.nice(10)  # Training goes first.
    gc.set_threshold(100_000)  # Garbage collection would take a third of the imports' time.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for stream in (1, 2):  # What libraries print is not for the user.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    from mnist_jax.reporting import figures
    from mnist_jax.reporting.tensorboard import EventFile

    # TensorBoard leaves a file for the next one by name: this one before the live scalars.
    event_file, error = EventFile(str(workdir), "0."), None
    while True:
        pipe.send(error)
        arguments, error = pipe.recv(), None
        try:
            pngs, errors = figures.draw(workdir / "figures", **arguments)
            error = "; ".join(errors) or None
            event_file.write_images(arguments["step"], pngs)
        except Exception as exception:
            error = first_line(exception)


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(0)


def collect_arguments(
    model: nn.Module,
    task: Task,
    params: Mapping[str, Any],
    dataset: Dataset,
    split: str,
    outputs: np.ndarray,
) -> dict[str, Any]:
    """Returns the arguments of `figures.plots` but the step and the journal.

    `params` are a single member's; `outputs`, `[n, ...]`, those of the split.
    """
    weights = None
    try:
        if create := getattr(model, "first_layer_images", None):  # See `models`.
            weights = create(jax.device_get(params), dataset.input.shape)
    except Exception as error:  # Of any type: it must not end the training.
        terminal.print_warning(f"WARNING: no figure of the first layer: {first_line(error)}")
    return {
        "dataset": dataset.name,
        "class_names": dataset.class_names,
        "split": split,
        "weights": weights,
        "labels": dataset.splits[split].label,
        "images": dataset.splits[split].image,
        "logits": outputs,
    }

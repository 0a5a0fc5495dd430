"""Draws the figures of a run in a thread, so that training does not wait."""

import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mnist_jax.data.datasets import Dataset
from mnist_jax.reporting.tensorboard import EventFile
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import first_line
from mnist_jax.tasks import Task

_INTERVAL = 10.0  # Seconds.


class FigureWorker:
    """Draws `<workdir>/figures/<name>.png`, and the same into an event file of its own."""

    def __init__(self, workdir: Path):
        """Starts the thread, which begins to import matplotlib."""
        self._folder = workdir / "figures"
        # TensorBoard leaves a file for the next one by name: this one before the live scalars.
        self._event_file = EventFile(str(workdir), "0.")
        self._thread = futures.ThreadPoolExecutor(1)
        self._running: futures.Future[Any] = self._thread.submit(_prepare)
        self._waiting: dict[str, Any] | None = None
        self._last = time.monotonic()
        self._error: str | None = None
        self._is_closing = False

    def draw(self, **arguments: Any) -> None:
        """Requests `figures.draw` of the newest evaluation; returns at once.

        It is called at most every ten seconds, and for the newest request at the end: it takes
        as long as a hundred of the tutorial's steps or more.
        """
        self._waiting = arguments
        if time.monotonic() - self._last >= _INTERVAL:
            self._start(arguments)

    def _start(self, arguments: dict[str, Any]) -> None:
        self._running.cancel()
        self._running = self._thread.submit(self._draw, arguments)
        self._waiting, self._last = None, time.monotonic()

    def close(
        self, *, wait: bool, should_stop: Callable[[], object] = lambda: False
    ) -> str | None:
        """Ends the thread, at the latest after one more figure; returns the first error.

        Args:
          wait: Whether to wait for the newest request.
          should_stop: Ends the waiting; called ten times a second.
        """
        if wait and self._waiting:
            self._start(self._waiting)
        while wait and not self._running.done() and not should_stop():
            futures.wait([self._running], timeout=0.1)
        self._is_closing = True
        if self._waiting or not self._running.done():
            self._error = self._error or "the run was stopped"
        self._thread.shutdown(cancel_futures=True)
        self._event_file.close()
        return self._error

    def _draw(self, arguments: dict[str, Any]) -> None:
        try:
            from mnist_jax.reporting import figures

            pngs, errors = figures.draw(
                self._folder, should_stop=lambda: self._is_closing, **arguments
            )
            for name, png in pngs.items():
                width, height = struct.unpack(">II", png[16:24])  # In PNG's first chunk.
                image = {"width": width, "height": height, "encoded_image_string": png}
                summary = {"value": [{"tag": f"figures/{name}", "image": image}]}
                self._event_file.write(step=arguments["step"], summary=summary)
        except Exception as error:  # Of any type: it must not end the training.
            errors = [first_line(error)]
        self._error = self._error or "; ".join(errors) or None


def _prepare() -> None:
    if sys.platform == "linux":  # Elsewhere a thread has no priority of its own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # Training goes first.
    import mnist_jax.reporting.figures  # noqa: F401


def collect_arguments(
    model: nn.Module,
    task: Task,
    params: Mapping[str, Any],
    dataset: Dataset,
    split: str,
    outputs: np.ndarray,
) -> dict[str, Any]:
    """Returns the arguments of `figures.draw` but the folder, the step and the journal.

    `params` are a single member's; `outputs`, `[n, ...]`, those of the split.
    """
    weights = None
    try:
        create = getattr(model, "first_layer_images", None)  # See `models`.
        if create and len(dataset.input.shape) > 1:
            weights = create(jax.device_get(params), dataset.input.shape)
    except Exception as error:  # Of any type: it must not end the training.
        terminal.print_warning(f"WARNING: no figure of the first layer: {first_line(error)}")
    return {
        "names": task.figures,
        "metric": task.best[0],
        "dataset": dataset.name,
        "class_names": dataset.class_names,
        "split": split,
        "weights": weights,
        "labels": dataset.splits[split].label,
        "images": dataset.splits[split].image,
        "logits": outputs,
    }

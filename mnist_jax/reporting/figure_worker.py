"""Draws the figures of a run in a thread, so that training does not wait."""

import dataclasses
import functools
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mnist_jax.data.datasets import Dataset, Split
from mnist_jax.reporting.tensorboard import EventFile
from mnist_jax.runtime.errors import first_line
from mnist_jax.tasks import Task

_INTERVAL = 10.0  # Seconds.


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What the figures show: the outputs for a split after a step, and the run until then."""

    task: Task
    dataset: Dataset
    split: str
    step: int
    outputs: np.ndarray  # `float32[n, ...]`, those for the split.
    journal: Sequence[Mapping[str, Any]]  # The lines of `metrics.jsonl`.
    weights: Callable[[], np.ndarray] | None  # See `first_layer_weights`.

    @property
    def examples(self) -> Split:
        """The examples of the split."""
        return self.dataset.splits[self.split]

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each example."""
        return self.outputs.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of that class."""
        return np.exp(self.outputs.max(axis=1) - np.logaddexp.reduce(self.outputs, axis=1))


class FigureWorker:
    """Draws `<workdir>/figures/<name>.png`, and the same into an event file of its own."""

    def __init__(self, workdir: Path):
        """Starts the thread, which begins to import matplotlib."""
        self._folder = workdir / "figures"
        # TensorBoard leaves a file for the next one by name: this one before the live scalars.
        self._event_file = EventFile(workdir, "0.")
        self._thread = futures.ThreadPoolExecutor(1)
        self._running: futures.Future[Any] = self._thread.submit(_prepare)
        self._waiting: Evaluation | None = None
        self._last = time.monotonic()
        self._error: str | None = None
        self._is_closing = False

    def draw(self, evaluation: Evaluation) -> None:
        """Requests `figures.draw` of the newest evaluation; returns at once.

        It is called at most every ten seconds, and for the newest request at the end: it takes
        as long as a hundred of the tutorial's steps or more.
        """
        self._waiting = evaluation
        if time.monotonic() - self._last >= _INTERVAL:
            self._start(evaluation)

    def _start(self, evaluation: Evaluation) -> None:
        self._running.cancel()
        self._running = self._thread.submit(self._draw, evaluation)
        self._waiting, self._last = None, time.monotonic()

    def close(self, should_stop: Callable[[], object] = lambda: False) -> str | None:
        """Waits for the newest request, and ends the thread; returns the first error.

        `should_stop` is called ten times a second, and ends the waiting after one more figure.
        """
        if self._waiting and not should_stop():
            self._start(self._waiting)
        while not (self._running.done() or should_stop()):
            futures.wait([self._running], timeout=0.1)
        self._is_closing = True
        if self._waiting or not self._running.done():
            self._error = self._error or "the run was stopped"
        self._thread.shutdown(cancel_futures=True)
        self._event_file.close()
        return self._error

    def _draw(self, evaluation: Evaluation) -> None:
        try:
            from mnist_jax.reporting import figures

            pngs, errors = figures.draw(self._folder, evaluation, lambda: self._is_closing)
            for name, png in pngs.items():
                width, height = struct.unpack(">II", png[16:24])  # In PNG's first chunk.
                image = {"width": width, "height": height, "encoded_image_string": png}
                summary = {"value": [{"tag": f"figures/{name}", "image": image}]}
                self._event_file.write(step=evaluation.step, summary=summary)
        except Exception as error:  # Of any type: it must not end the training.
            errors = [first_line(error)]
        self._error = self._error or "; ".join(errors) or None


def _prepare() -> None:
    if sys.platform == "linux":  # Elsewhere a thread has no priority of its own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # Training goes first.
    import mnist_jax.reporting.figures  # noqa: F401


def first_layer_weights(
    model: nn.Module, params: Mapping[str, Any], dataset: Dataset
) -> Callable[[], np.ndarray] | None:
    """Returns what computes each unit's weights as an image; `params` are those of a member."""
    create = getattr(model, "first_layer_images", None)  # See `models`.
    if not create or len(dataset.input.shape) < 2:
        return None
    return functools.partial(create, jax.device_get(params), dataset.input.shape)

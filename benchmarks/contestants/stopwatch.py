"""Measures the training speed of every peer in the same way."""

import json
import statistics
import time


class Stopwatch:
    """Times the training in laps of the same number of steps.

    A lap ends after the loss has been read, which waits for the device. Evaluation and saving
    run between the end of a lap and `restart`, so that no lap contains them.
    """

    def __init__(self, steps_per_lap: int = 100):
        self._steps_per_lap = steps_per_lap
        self._laps: list[float] = []
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Excludes the time since the end of the last lap."""
        self._start = time.perf_counter()

    def lap(self) -> float:
        """Ends a lap and begins the next one; returns its seconds."""
        now = time.perf_counter()
        self._laps.append(now - self._start)
        self._start = now
        return self._laps[-1]

    def result(self, test_accuracy: float) -> str:
        """Returns the last line of a contestant's output, in JSON.

        `steps_per_second` is that of the median lap; the first lap, which compiles, is
        excluded.
        """
        speed = self._steps_per_lap / statistics.median(self._laps[1:])
        return json.dumps({"test_accuracy": test_accuracy, "steps_per_second": speed})

"""How every peer's training speed is measured: alike, and without what is not training."""

import json
import statistics
import time


class Stopwatch:
    """Times training by laps of equally many steps.

    A lap ends where the loss is read and printed, which waits for the device. Evaluation
    and saving come after a lap's end and before `restart`, so they are in none.
    """

    def __init__(self, steps_per_lap: int = 100):
        self._steps_per_lap = steps_per_lap
        self._laps: list[float] = []
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Leaves out what was done since the last lap's end."""
        self._start = time.perf_counter()

    def lap(self) -> float:
        """Ends a lap and begins the next one; returns its seconds."""
        now = time.perf_counter()
        self._laps.append(now - self._start)
        self._start = now
        return self._laps[-1]

    def result(self, test_accuracy: float) -> str:
        """Returns the line of JSON that ends a contestant's output.

        `steps_per_second` is that of the median lap, without the first, which holds
        compilation and the first use of everything.
        """
        speed = self._steps_per_lap / statistics.median(self._laps[1:])
        return json.dumps({"test_accuracy": test_accuracy, "steps_per_second": speed})

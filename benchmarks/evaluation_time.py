"""Runs the trainer's command and times its evaluations: `python -m benchmarks.evaluation_time`.

Accepts the flags of `train.py`. After each evaluation of all splits it prints a line of JSON
with its duration in seconds; the first evaluation compiles.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from mnist_jax.eval_step import evaluate

_TRAIN = Path(__file__).parent.parent / "train.py"


def main() -> None:
    """Runs the command, which does not return."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        results = evaluate(*args, **kwargs)
        seconds = time.perf_counter() - start
        if len(results[0]) > 1:  # Not of the validation split alone.
            print(json.dumps({"evaluation_s": seconds}), flush=True)
        return results

    sys.argv[0] = str(_TRAIN)
    with mock.patch("mnist_jax.train_loop.evaluate", timed):
        runpy.run_path(str(_TRAIN), run_name="__main__")


if __name__ == "__main__":
    main()

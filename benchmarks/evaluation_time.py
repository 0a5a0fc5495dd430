"""The trainer's command with its evaluations timed: `python -m benchmarks.evaluation_time`.

Takes the flags of `train.py` and runs it; after each evaluation of all splits it prints a line
of JSON with its seconds. The first compiles.
"""

import gc
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

_TRAIN = Path(__file__).parent.parent / "train.py"


def main() -> None:
    """Runs the command, and prints the JSON on the way: the command does not return."""
    gc.disable()  # As `train.py` does around this import.
    from mnist_jax import train_loop

    gc.enable()
    evaluate = train_loop.evaluate

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        results = evaluate(*args, **kwargs)
        seconds = time.perf_counter() - start
        print(json.dumps({"evaluation_s": seconds}), flush=True)
        return results

    sys.argv[0] = str(_TRAIN)
    with mock.patch.object(train_loop, "evaluate", timed):
        runpy.run_path(str(_TRAIN), run_name="__main__")


if __name__ == "__main__":
    main()

"""The trainer's command with its evaluations timed: `python -m benchmarks.evaluation_time`.

Takes the flags of `train.py`, runs it as it is, and ends with a line of JSON: the seconds of
each evaluation of all splits (the first compiles).
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
    """Runs the command, and prints the JSON."""
    gc.disable()  # As `train.py` does around this import.
    from mnist_jax import train_loop

    gc.enable()
    seconds = []
    evaluate = train_loop.evaluate

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        results = evaluate(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return results

    sys.argv[0] = str(_TRAIN)
    with mock.patch.object(train_loop, "evaluate", timed):
        try:
            runpy.run_path(str(_TRAIN), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    print(json.dumps({"evaluation_s": seconds}))


if __name__ == "__main__":
    main()

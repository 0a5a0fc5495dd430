"""Where the time of the default command goes: `python -m benchmarks.phases`.

Trains the default config with a warm compile cache, with timers around the parts of the loop,
and prints a table of the medians in seconds, each beside what bounds it from below. Python's
start, and the end of the process, are what remains of the whole.
"""

import argparse
import functools
import json
import pkgutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import process

_ROOT = Path(__file__).parent.parent
# What is timed, by the name under which it is called.
_PHASES = {
    "load the dataset": "run.load_dataset",
    "check the model and the task": "run.check_code",
    "create the state": "run.Run.create_state",
    "open journal and event files": "train_loop.Reporter",
    "dispatch and wait for the steps": "train_loop.train_steps",
    "evaluate": "train_loop.evaluate",
    "start saving": "checkpointing.Checkpoints.save",
    "wait for figures, close files": "reporting.reporter.Reporter.__exit__",
    "wait for the last save": "checkpointing.Checkpoints.__exit__",
}
_IMPORTS = "import jax, flax.linen, optax, orbax.checkpoint, clu.asynclib, ml_collections"


def child() -> None:
    """Trains, and prints the seconds of each phase."""
    seconds: dict[str, float] = defaultdict(float)
    start = time.perf_counter()
    from mnist_jax.runtime import compile_cache

    compile_cache.enable()  # As the command does, before it imports jax.
    from mnist_jax import __main__, train_loop  # noqa: F401

    seconds["import"] = time.perf_counter() - start

    def timed(name: str, function: Any) -> Any:
        @functools.wraps(function, updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if name.startswith("dispatch"):
                import jax

                jax.block_until_ready(result)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    for name, place in _PHASES.items():
        target = f"mnist_jax.{place}"
        mock.patch(target, timed(name, pkgutil.resolve_name(target))).start()
    __main__.main([sys.argv[0], "train", *sys.argv[2:]])
    print(json.dumps(seconds))


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    imports = []
    for number in range(args.rounds + 1):  # The first fills the caches.
        for figures in runs:
            with tempfile.TemporaryDirectory() as folder:
                flags = [f"--config.figures={figures}", f"--workdir={folder}/run"]
                command = [sys.executable, "-m", "benchmarks.phases", "child", *flags]
                measured = process.run(command, cwd=_ROOT, env={})
            phases = json.loads(measured.stdout.splitlines()[-1])
            phases["whole"] = measured.wall_s
            runs[figures] += [phases] * bool(number)
        imports.append(process.run([sys.executable, "-c", _IMPORTS], cwd=_ROOT).wall_s)
    print("| | without figures | with figures |\n|---|---:|---:|")
    for name in ("import", *_PHASES, "whole"):
        cells = [statistics.median(x.get(name, 0) for x in runs[f]) for f in (False, True)]
        print(f"| {name} | {cells[0]:.2f} | {cells[1]:.2f} |")
    rest = [
        statistics.median(2 * x["whole"] - sum(x.values()) for x in runs[f])
        for f in (False, True)
    ]
    print(f"| the rest | {rest[0]:.2f} | {rest[1]:.2f} |")
    print(
        f"\nPython, with the imports of the libraries alone: {statistics.median(imports):.2f}"
    )


if __name__ == "__main__":
    child() if sys.argv[1:2] == ["child"] else main()

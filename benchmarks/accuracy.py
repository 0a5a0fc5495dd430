"""Trains the rows of configs/lecun.py and reports their test errors.

    python -m benchmarks.accuracy [ROW ...] [--from RESULTS]

Trains each row that the JSON file of results lacks, by `train.py` in a process of its own. If
this is interrupted, the same command resumes it. Writes each result to the file, and from it
tables and a plot into docs/accuracy.md, and a table into README.md.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks import process
from mnist_jax.configs import default, lecun
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.files import replacing

_ROOT = Path(__file__).parent.parent
_PERIOD_S = 10  # Between writes of an attempt's duration.
_RUNS = {"committee": "800-elastic"}  # Rows that are another row's run.


def main() -> None:
    """Trains what is missing, and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"default: all of {', '.join(lecun.ROWS)}"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=_ROOT / "benchmarks" / "results" / "accuracy.json",
        help="JSON file to read and write",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=_ROOT / "runs" / "accuracy",
        help="folder of the runs, one for each row",
    )
    parser.add_argument("--from", dest="source", type=Path, help="only report these results")
    parser.add_argument("--document", type=Path, default=_ROOT / "docs" / "accuracy.md")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md")
    args = parser.parse_args()
    rows = [_RUNS.get(row, row) for row in args.rows or lecun.ROWS]
    if unknown := set(rows) - set(lecun.ROWS):
        parser.error(f"{unknown.pop()}: no row; choose from {', '.join(lecun.ROWS)}")

    from benchmarks import accuracy_report  # Here: the training needs no matplotlib.

    if args.source:
        accuracy_report.write(read(args.source), args.document, args.readme)
        return
    for row in rows:
        measure(row, args.results, args.workdir)
        accuracy_report.write(read(args.results), args.document, args.readme)


def measure(
    row: str,
    results: Path,
    folder: Path,
    *,
    arguments: Sequence[str] = (),
    train: Path = _ROOT / "train.py",
) -> None:
    """Trains a row and records it, unless the file of results has it.

    Args:
      row: A row of `configs/lecun.py`.
      results: JSON file, by row the return value of `summarize`; written completely or not at
        all.
      folder: Gets the run, as `row`, and the durations of its attempts, as `row.attempts.json`.
      arguments: More arguments of the command.
      train: The program.

    Raises:
      SystemExit: The command failed or was interrupted, with its exit code.
    """
    config = lecun.get_config(row)
    expected = hyperparameters(config)
    if read(results).get(row, {}).get("config") == expected:
        print(f"{row}: in {results}; to train it again, remove it there, and {folder / row}")
        return
    command = ["--config", f"configs/lecun.py:{row}", *arguments]
    attempts = folder / f"{row}.attempts.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / row).exists():  # The run was removed, to train it again.
        attempts.unlink(missing_ok=True)
    run = [sys.executable, str(train), *command, "--workdir", str((folder / row).absolute())]
    # A device for each core: there a member's small operations are faster than on two cores.
    devices = min(os.cpu_count() or 1, config.num_seeds)
    variables = {"JAX_NUM_CPU_DEVICES": str(devices)}
    if code := _attempt(run, attempts, variables):
        print(f"{row}: exit code {code}; the same command resumes", file=sys.stderr)
        raise SystemExit(code)
    report = json.loads((folder / row / "results.json").read_text())
    entry = summarize(report, json.loads(attempts.read_text()))
    if (report["step"], entry["config"]) != (config.num_train_steps, expected):
        raise SystemExit(f"{folder / row}: a run of another config; remove it")
    on_cpu = report["environment"]["devices"].endswith("cpu")  # Elsewhere they say nothing.
    assignments = [f"{name}={value}" for name, value in variables.items() if on_cpu]
    entry["command"] = " ".join([*assignments, "python", "train.py", *command])
    _write(results, {**read(results), row: entry})


def read(results: Path) -> dict[str, Any]:
    """Returns the recorded rows; none if there is no file."""
    return json.loads(results.read_text()) if results.exists() else {}


def summarize(report: Mapping[str, Any], attempts: Sequence[float]) -> dict[str, Any]:
    """Returns what is recorded of a run, from its `results.json` and its attempts' seconds.

    Errors are in percent: of each seed, their mean and sample standard deviation (None for one
    seed), and the error of the seeds' committee (None likewise).
    """
    config = config_lib.from_json(report["config"])
    num_train_examples = report["splits"]["train"]["num_examples"]
    versions = dict(report["environment"])
    commit = versions.pop("commit", None)
    return {
        "test": _errors(report["splits"]["test"]),
        "validation": _errors(report["splits"]["validation"]),
        "num_params": num_params(config),
        "epochs": round(report["step"] * config.batch_size / num_train_examples, 3),
        "wall_s": round(sum(attempts), 1),
        "attempts": len(attempts),
        "machine": {"processor": process.processor(), "cores": os.cpu_count(), **versions},
        "commit": commit,
        "config": hyperparameters(config),
    }


def num_params(config: ConfigDict) -> int:
    """Returns the number of parameters of a config's network on MNIST."""
    import jax

    from mnist_jax.models import create_model

    init = functools.partial(create_model(config, 10).init, train=False)
    image = jax.ShapeDtypeStruct((1, 28, 28), "uint8")
    params = jax.eval_shape(init, jax.random.key(0), image)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def hyperparameters(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that decide the results and differ from the default config."""
    defaults = config_lib.hyperparameters(default.get_config())
    fields = config_lib.hyperparameters(config)
    return {name: value for name, value in fields.items() if value != defaults[name]}


def _errors(split: Mapping[str, Any]) -> dict[str, Any]:
    num_examples = split["num_examples"]

    def percent(num_correct: float) -> float:
        return round(100 * (num_examples - num_correct) / num_examples, 6)

    counts, committee = split["num_correct"], split.get("committee_num_correct")
    seeds = [percent(count) for count in (counts if isinstance(counts, list) else [counts])]
    return {
        "mean": round(statistics.mean(seeds), 6),
        "std": round(statistics.stdev(seeds), 6) if len(seeds) > 1 else None,
        "seeds": seeds,
        "committee": None if committee is None else percent(committee),
    }


def _attempt(command: Sequence[str], attempts: Path, variables: Mapping[str, str]) -> int:
    """Runs a command, adds its duration to the file `attempts`, and returns its exit code.

    The duration is written while the command runs: it counts even if the machine fails. If
    SIGKILL ends this process alone, the command continues, and its further time is not counted.
    """
    earlier = json.loads(attempts.read_text()) if attempts.exists() else []
    start = time.monotonic()
    # In its own session, so that a terminal's signals reach it once.
    environment = os.environ | variables
    program = subprocess.Popen(command, cwd=_ROOT, env=environment, start_new_session=True)
    with _passing_signals_to(program):
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(_PERIOD_S)
            _write(attempts, [*earlier, round(time.monotonic() - start, 1)])
            if program.returncode is not None:
                return abs(program.returncode) + 128 * (program.returncode < 0)


@contextlib.contextmanager
def _passing_signals_to(program: subprocess.Popen[bytes]) -> Iterator[None]:
    """The program saves its state at these signals, and ends."""
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    handlers = {
        signum: signal.signal(signum, lambda number, frame: program.send_signal(number))
        for signum in signals
        if signal.getsignal(signum) != signal.SIG_IGN  # As nohup sets it.
    }
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode())


if __name__ == "__main__":
    main()

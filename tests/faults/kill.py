"""Kills a training run at random moments, again and again, until it is complete.

    python -m tests.faults.kill --kills 100

Each run repeats the same command in one workdir, with a SIGKILL after a random time between 0
and the duration of an uninterrupted run, until one attempt completes. Then checkpoints, journal
and TensorBoard points are compared with those of the uninterrupted run.
"""

import argparse
import collections
import contextlib
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults import processes


class Report(NamedTuple):
    """Attributes:
    kills: Number of kills by what the run was doing.
    runs: Number of completed runs.
    differences: Between those and the uninterrupted run.
    """

    kills: collections.Counter[str]
    runs: int
    differences: list[str]


def kill_runs(kills: int, seed: int, folder: Path) -> Report:
    rng = random.Random(seed)
    start = time.monotonic()
    _complete(folder / "reference")
    life = time.monotonic() - start
    reference = processes.remains(folder / "reference")

    report = Report(collections.Counter(), 0, [])
    while report.kills.total() < kills:
        workdir = folder / f"run{report.runs}"
        for phase in _kill_until_complete(workdir, kills - report.kills.total(), life, rng):
            report.kills[phase] += 1
        report = report._replace(runs=report.runs + 1)
        actual = processes.remains(workdir)
        for name in reference._fields:
            if getattr(actual, name) != getattr(reference, name):
                report.differences.append(f"{workdir}: {name}")
    return report


def _kill_until_complete(
    workdir: Path, max_kills: int, life: float, rng: random.Random
) -> Iterator[str]:
    """Yields what the run was doing at each kill."""
    for _ in range(max_kills):
        process = processes.start(processes.train_command(workdir, processes.SHORT_RUN))
        try:
            _, stderr = process.communicate(timeout=rng.uniform(0.0, life))
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, _ = process.communicate()
            yield _phase(workdir, stdout)
        else:
            if process.returncode:
                raise AssertionError(
                    f"{workdir}: exit {process.returncode}: {stderr}"
                ) from None
            return
    _complete(workdir)


def _complete(workdir: Path) -> None:
    ended = processes.run(processes.train_command(workdir, processes.SHORT_RUN))
    if ended.returncode:
        raise AssertionError(f"{workdir}: exit {ended.returncode}: {ended.stderr}")


def _phase(workdir: Path, stdout: str) -> str:
    last = processes.SHORT_RUN["num_train_steps"]
    if not stdout:
        return "start-up"
    if list(workdir.glob("checkpoints/*.orbax-checkpoint-tmp*")):
        return "inside a save"
    if (workdir / "checkpoints" / str(last)).exists():
        return "at exit"
    return "training and evaluation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Keep the runs here.")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory())
        folder = arguments.folder or Path(temporary)
        report = kill_runs(arguments.kills, arguments.seed, folder)
    for phase, number in report.kills.most_common():
        print(f"{number:5} killed in: {phase}")
    print(f"{report.kills.total():5} kills, {report.runs} runs completed")
    print(*report.differences, sep="\n")
    print(f"{len(report.differences):5} differences from the uninterrupted run")
    raise SystemExit(bool(report.differences))


if __name__ == "__main__":
    main()

"""Kills training runs at random moments, again and again, until they are complete.

    python -m tests.faults.kill --kills 200

A run repeats one command in one workdir. A few attempts are struck: the training process or its
whole process group is killed, or a signal asks the run to stop. Half of them are struck at a
random moment, the others while a checkpoint is written or deleted. The last attempt completes.
Then the checkpoints, the journal and the points of TensorBoard must be those of an
uninterrupted run of the same config, and nothing else may be left. The same seed repeats the
configs, the kinds and the delays.
"""

import argparse
import collections
import contextlib
import functools
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax.checkpointing import Checkpoints, best_step
from tests.faults import processes

CONFIGS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.0},
    "adamw, cosine": {
        "optimizer": "adamw",
        "momentum": 0.0,
        "schedule": "cosine",
        "warmup_steps": 50,
        "learning_rate": 0.002,
        "weight_decay": 0.1,
    },
    "momentum, histograms": {"log_histograms": True, "num_train_steps": 200},
    "keep 1, a save every 4 steps": {
        "keep_checkpoints": 1,
        "checkpoint_every_steps": 4,
        "num_train_steps": 200,
    },
    "figures": {"figures": True},
    "one step per call": {"steps_per_call": 1},
    "profile": {"profile_steps": (195, 200)},
    "three seeds": {"num_seeds": 3, "dropout": 0.2, "augmentation": "elastic"},
    "mnist_5k": {"dataset": "mnist_5k", "learning_rate": 0.05},
}

_SIGNALS = ["SIGTERM", "SIGINT", "SIGHUP"]
_SAVE, _DELETION = "*.orbax-checkpoint-tmp*", "deleted"
KINDS = ["process", "group", *_SIGNALS]


class Kill(NamedTuple):
    """One kill: in a run of which config, of which kind, and what the run was doing."""

    config: str
    kind: str
    moment: str


class Report(NamedTuple):
    """Attributes:
    kills: Number of kills of each sort.
    runs: Number of completed runs.
    differences: Between those and the uninterrupted runs; and unexpected exits.
    """

    kills: collections.Counter[Kill]
    runs: int
    differences: list[str]


class _Reference(NamedTuple):
    """An uninterrupted run: its duration in seconds, and what it left."""

    life: float
    remains: processes.Remains
    best_step: int | None
    names: set[str]


def kill_runs(
    kills: int, seed: int, folder: Path, configs: Sequence[str] = tuple(CONFIGS)
) -> Report:
    """Runs each config in turn, until there were so many kills and all runs are complete."""
    report = Report(collections.Counter(), 0, [])
    reference = functools.cache(lambda name: _run_reference(name, folder))
    while report.kills.total() < kills:
        name = configs[report.runs % len(configs)]
        run = _Run(name, reference(name), folder, number=report.runs, seed=seed)
        run.kill_until_complete(kills - report.kills.total())
        report.kills.update(run.kills)
        report.differences.extend(f"{run.workdir}: {name}: {text}" for text in run.wrong)
        report = report._replace(runs=report.runs + 1)
        print(end="." if not run.wrong else "F", flush=True)
    print()
    return report


def _start(name: str, workdir: Path) -> subprocess.Popen[str]:
    fields = processes.SHORT_RUN | CONFIGS[name]
    # A cache of compiled programs of its own, because a kill may hit that one, too.
    environment = {"XDG_CACHE_HOME": str(workdir.parent / "cache")}
    command = processes.train_command(workdir, fields)
    return processes.start(command, env=environment, start_new_session=True)


def _run_reference(name: str, folder: Path) -> _Reference:
    workdir = folder / f"uninterrupted {name}"
    start = time.monotonic()
    process = _start(name, workdir)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, ""), f"{workdir}: {stderr}"
    life = time.monotonic() - start
    best = best_step(Checkpoints(workdir).intact_manifests())
    return _Reference(life, _remains(name, workdir), best, _names(workdir))


class _Run:
    """A run that is killed; `wrong` says what differs from the uninterrupted one."""

    def __init__(self, name: str, reference: _Reference, folder: Path, number: int, seed: int):
        self.workdir = folder / f"run{number}"
        self.kills: list[Kill] = []
        self.wrong: list[str] = []
        self._name, self._reference = name, reference
        self._rng = random.Random(f"{seed}/{number}")
        self._saved_by_signals: list[int] = []

    def kill_until_complete(self, max_kills: int) -> None:
        kinds = [self._choose_kind() for _ in range(self._rng.randint(2, 5))]
        # A kill that comes too late also lets the attempt complete.
        if any(self._attempt(kind) for kind in [*kinds[:max_kills], None]):
            self._compare()

    def _choose_kind(self) -> str:
        kind = self._rng.choice(["process"] * 5 + ["group"] * 3 + ["signal"] * 2)
        return self._rng.choice(_SIGNALS) if kind == "signal" else kind

    def _attempt(self, kind: str | None) -> bool:
        """Starts the command, and kills it in the given way; returns whether it completed."""
        start = time.time()
        process = _start(self._name, self.workdir)
        struck = moment = None
        if kind is not None:
            self._wait_for_moment(process, kind, start)
            moment = self._moment(start)
            struck = self._strike(process, kind)
        stdout, stderr = process.communicate()
        if kind and moment and struck:
            self.kills.append(Kill(self._name, kind, moment if stdout else "start-up"))
        if not _is_expected(process.returncode, stderr, kind if struck else None):
            self.wrong.append(f"exit {process.returncode} after {kind}: {stderr}")
        steps = re.findall(r"Stopped by SIG\w+ after step (\d+), which is saved", stderr)
        self._saved_by_signals.extend(map(int, steps))
        return process.returncode == 0

    def _wait_for_moment(self, process: subprocess.Popen[str], kind: str, start: float) -> None:
        # Not the whole life: a resumed attempt is shorter, and finds its programs compiled.
        delay = self._rng.uniform(0, 0.8 * self._reference.life)
        pattern = self._rng.choice([None, None, _SAVE, _DELETION])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay if pattern is None else delay / 2)
        _wait(process, lambda: pattern is None or self._exists_since(start, pattern))
        time.sleep(self._rng.choice([0, self._rng.uniform(0, 0.01)]))
        if kind in _SIGNALS:  # Before that, Python has not yet begun with the command.
            _wait(process, lambda: _handles(process, signal.Signals[kind]))

    def _exists_since(self, start: float, pattern: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            paths = (self.workdir / "checkpoints").glob(pattern)
            return any(path.stat().st_ctime > start for path in paths)
        return False

    def _moment(self, start: float) -> str:
        last = self._reference.remains.steps[-1]
        if self._exists_since(start, _SAVE):
            return "a save"
        if self._exists_since(start, _DELETION):
            return "a deletion"
        if (self.workdir / "checkpoints" / str(last)).exists():
            return "the end"
        return "training"

    def _strike(self, process: subprocess.Popen[str], kind: str) -> bool:
        """Returns whether there was something to strike."""
        if process.poll() is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            signum = signal.Signals[kind] if kind in _SIGNALS else signal.SIGKILL
            if kind == "group" or (kind in _SIGNALS and self._rng.random() < 0.5):
                os.killpg(process.pid, signum)
            else:
                process.send_signal(signum)
            return True
        return False

    def _compare(self) -> None:
        expected = self._reference.remains
        keep = processes.short_config(**CONFIGS[self._name]).keep_checkpoints
        # A signal saves a checkpoint that the uninterrupted run does not have.
        steps = sorted({*expected.steps, *self._saved_by_signals})[-keep:]
        best = self._reference.best_step
        expected = expected._replace(steps=sorted({*steps, *([best] if best else [])}))
        actual = _remains(self._name, self.workdir)
        for field in expected._fields:
            if getattr(actual, field) != getattr(expected, field):
                self.wrong.append(f"other {field}")
        checkpoints = {str(step) for step in actual.steps}
        if left := _names(self.workdir / "checkpoints") - checkpoints:
            self.wrong.append(f"left among the checkpoints: {left}")
        if left := _names(self.workdir) - self._reference.names:
            self.wrong.append(f"left in the workdir: {left}")


def _is_expected(returncode: int, stderr: str, kind: str | None) -> bool:
    """Returns whether a command may end like this after a kill of this kind; None: no kill."""
    lines = stderr.splitlines()
    if kind in _SIGNALS and returncode:
        signum = signal.Signals[kind]
        # -signum: it came when the interpreter had already removed the handlers.
        if returncode == -signum:
            return not lines
        return returncode == 128 + signum and len(lines) == 1 and "Stopped" in lines[0]
    if kind in ("process", "group") and returncode:
        return (returncode, lines) == (-signal.SIGKILL, [])
    return (returncode, stderr) == (0, "")


def _remains(name: str, workdir: Path) -> processes.Remains:
    config = processes.short_config(**CONFIGS[name])
    return processes.remains(workdir, config).without_figures()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("events.")}


def _handles(process: subprocess.Popen[str], signum: int) -> bool:
    """Returns whether the process has installed a handler of its own for this signal."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = re.search(r"SigCgt:\s*(\w+)", status)
        return bool(caught and int(caught[1], 16) >> (signum - 1) & 1)
    return False


def _wait(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Waits until the condition is true or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.0005)


def format_table(counts: collections.Counter[tuple[str, str]], columns: Iterable[str]) -> str:
    """Returns a table of numbers by row and column, with sums."""
    columns = list(columns)
    rows = sorted({row for row, _ in counts})
    width = max(map(len, [*rows, "all"]))
    lines = ["".join([" " * width, *(f"  {column}" for column in [*columns, "all"])])]
    for row in [*rows, "all"]:
        chosen = [
            sum(n for (r, c), n in counts.items() if c == column and row in (r, "all"))
            for column in columns
        ]
        cells = zip([*columns, "all"], [*chosen, sum(chosen)], strict=True)
        lines.append(row.ljust(width) + "".join(f"  {n:{len(c)}}" for c, n in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Keep the runs here.")
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory())
        folder = arguments.folder or Path(temporary)
        report = kill_runs(arguments.kills, arguments.seed, folder, arguments.configs)
    by_config = collections.Counter[tuple[str, str]]()
    by_moment = collections.Counter[tuple[str, str]]()
    for kill, number in report.kills.items():
        by_config[kill.config, kill.kind] += number
        by_moment[kill.moment, kill.kind] += number
    print(format_table(by_config, KINDS), end="\n\n")
    print(format_table(by_moment, KINDS), end="\n\n")
    print(*report.differences, sep="\n")
    print(
        f"{report.kills.total()} kills, {report.runs} runs completed, "
        f"{len(report.differences)} differences from the uninterrupted runs"
    )
    raise SystemExit(bool(report.differences))


if __name__ == "__main__":
    main()

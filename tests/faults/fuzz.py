"""Gives each flag and variable that takes a string values that it was not made for.

    python -m tests.faults.fuzz --cases 1000 --seed 1
    python -m tests.faults.fuzz --cases 50 --seed 1 --real

Each case is one command with one such value, in an empty folder. It must complete, or end with
exit code 2, at most one line on stderr, and nothing changed on disk. The commands are forked
from a process that has imported the libraries; with `--real` each is started as users do.
"""

import argparse
import collections
import concurrent.futures
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from mnist_jax.train_loop import train_and_evaluate
from tests.faults import forked, processes
from tests.workdirs import contents

_TRAIN = (
    "train",
    f"--config={processes.ROOT / 'configs' / 'default.py'}",
    "--config.dataset=fake",
    "--config.hidden_sizes=()",
    "--config.num_train_steps=1",
    "--config.figures=False",
)
# Refused when everything else has been accepted: most cases should cost little.
_LATE = (*_TRAIN, "--config.batch_size=2001")
_MNIST = (*_TRAIN, "--config.dataset=mnist", "--config.fallback_dataset=")
_EVALUATE = ("evaluate", "--workdir=RUN")
_PREDICT = ("predict", "--workdir=RUN")
_DEMO = ("demo", "--workdir=RUN")

# VALUE is replaced by the value, RUN by a complete run, ARCHIVES by a folder without MNIST.
_ARGUMENTS = [
    ("train", "--config=VALUE"),
    (*_TRAIN, "--workdir=VALUE"),
    *(
        (*_LATE, f"--{flag}=VALUE")
        for flag in (
            "flagfile",
            "coordinator_address",
            "num_processes",
            "config.dataset",
            "config.fallback_dataset",
            "config.data_dir",
            "config.manual_dir",
            "config.optimizer",
            "config.schedule",
            "config.hidden_sizes",
            "config.profile_steps",
            "config.learning_rate",
            "config.seed",
            "config.figures",
            "config.no_field",
            "no_flag",
        )
    ),
    (*_LATE, "VALUE"),
    (*_LATE, "--config.VALUE=1"),
    (*_MNIST, "--config.manual_dir=ARCHIVES", "--config.data_dir=VALUE"),
    *((*_EVALUATE, f"--{flag}=VALUE") for flag in ("workdir", "step", "split")),
    (*_EVALUATE, "--step=none", "--figures=VALUE"),
    *((*_PREDICT, f"--{flag}=VALUE", "x") for flag in ("workdir", "step")),
    (*_PREDICT, "VALUE"),
    *((*_DEMO, f"--{flag}=VALUE") for flag in ("workdir", "step")),
    (*_DEMO, "--step=none", "--port=VALUE"),
]
_VARIABLES = {
    "TFDS_DATA_DIR": (*_MNIST, "--config.manual_dir=ARCHIVES"),
    "MNIST_JAX_MANUAL_DIR": _LATE,
    "XDG_CACHE_HOME": _TRAIN,
    "HOME": _LATE,
    "NO_COLOR": _LATE,
    "TERM": _LATE,
    "COLUMNS": _LATE,
    "LINES": _LATE,
}
_VALUES = [
    "",
    *(character * length for character in "x9([é\udc80" for length in (1, 256, 5000)),
    "folder/" + "x" * 256,
    "x/" * 2500,
    "~",
    "~x",
    "~nobody_of_this_name/x",
    "a\0b",
    "a\nb",
    "\x1b[31m",
    " ",
    ".",
    "..",
    "/dev/null",
    "/dev/null/x",
    "/proc/x",
    "gs://bucket/x",
    "http://host/x",
    "file:///x",
    "-1",
    "1e999",
    "{}",
    "{1: 2}",
    "'",
    "%s{0}$HOME`",
    "None",
    "数字\u202e\U0001f600",
]


class Case(NamedTuple):
    command: tuple[str, ...]
    environment: dict[str, str]


class Report(NamedTuple):
    """Attributes:
    exit_codes: Number of cases by exit code.
    wrong: The cases that broke the promise, and how.
    slowest: The longest time of a case, in seconds.
    """

    exit_codes: collections.Counter[int]
    wrong: list[str]
    slowest: float


def choose_cases(number: int, seed: int, *, real: bool = False) -> list[Case]:
    cases = [
        Case(tuple(part.replace("VALUE", value) for part in command), {})
        for command in _ARGUMENTS
        for value in _VALUES
        if not (real and "\0" in value)  # The operating system passes none.
    ]
    cases += [
        Case(command, {name: value})
        for name, command in _VARIABLES.items()
        for value in _VALUES
        if "\0" not in value
    ]
    return random.Random(seed).sample(cases, min(number, len(cases)))


def check(cases: list[Case], folder: Path, *, real: bool = False) -> Report:
    run = folder / "run"
    config = processes.short_config()
    config.update(num_train_steps=10)
    train_and_evaluate(config, run)
    archives = folder / "archives"
    archives.mkdir()
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (archives / f"{part}-{kind}-ubyte.gz").write_bytes(b"")
    before = contents(run)
    environment = {"XDG_CACHE_HOME": str(folder / "cache")}

    def check_one(number: int, case: Case) -> tuple[int, list[str], float]:
        names = {"RUN": str(run), "ARCHIVES": str(archives)}
        command = list(case.command)
        for name, path in names.items():
            command = [part.replace(name, path) for part in command]
        place = folder / str(number)
        (place / "cwd").mkdir(parents=True)
        start = time.monotonic()
        run_command = _run_real if real else forked.run
        ended = run_command(command, place / "cwd", environment | case.environment)
        problems = []
        if ended.returncode not in (0, 2):
            problems.append(f"exit code {ended.returncode}")
        if ended.stderr.count("\n") > 1 or "Traceback" in ended.stderr:
            problems.append("more than one line")
        if ended.returncode and not ended.stderr:
            problems.append("no line")
        if ended.returncode and contents(place) != {"cwd": None}:
            problems.append(f"left {[*contents(place)]}")
        if problems:
            text = ended.stderr[:300] + " ... " + ended.stderr[-700:]
            problems = [f"{_short(case)}: {', '.join(problems)}: {text}"]
        return ended.returncode, problems, time.monotonic() - start

    report = Report(collections.Counter(), [], 0.0)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        for code, problems, seconds in executor.map(check_one, range(len(cases)), cases):
            report.exit_codes[code] += 1
            report.wrong.extend(problems)
            report = report._replace(slowest=max(report.slowest, seconds))
    if contents(run) != before:
        report.wrong.append(f"{run} has changed")
    return report


def _run_real(command: list[str], cwd: Path, environment: dict[str, str]) -> processes.Ended:
    program = [sys.executable, "-m", "mnist_jax"]
    return processes.run([*program, *command], cwd=cwd, env=environment)


def _short(case: Case) -> str:
    parts = [*case.command, *map("=".join, case.environment.items())]
    return " ".join(part if len(part) < 100 else f"{part[:60]}..." for part in parts[-3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    cases = choose_cases(arguments.cases, arguments.seed, real=arguments.real)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = check(cases, Path(folder), real=arguments.real)
    print(*map(ascii, report.wrong), sep="\n")
    for code, number in sorted(report.exit_codes.items()):
        print(f"{number:5} cases with exit code {code}")
    print(
        f"{len(report.wrong):5} wrong; slowest {report.slowest:.1f} s, "
        f"all {time.monotonic() - start:.0f} s"
    )
    raise SystemExit(bool(report.wrong))


if __name__ == "__main__":
    main()

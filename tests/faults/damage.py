"""Damages one random file or checkpoint of a workdir, a thousand times.

    python -m tests.faults.damage --faults 1000

Each time, checkpoints are restored as `evaluate` does, and in a share of the cases training is
resumed. Either the fault is refused with one line that names the file, and nothing has changed;
or the checkpoint is moved to `damaged/`, and the run ends with the bits of an undamaged one; or
the fault does no harm, with the same bits. Never are there other values, an error of another
type, or a hang.
"""

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mnist_jax import restoring
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.reporting.journal import read_journal
from mnist_jax.runtime.errors import CommandError
from mnist_jax.train_loop import train_and_evaluate
from tests.faults import processes
from tests.faults.kill import format_table

OUTCOMES = ["refused", "moved", "unharmed", "WRONG"]
_DAMAGED_STEP, _LAST_STEP = 40, 60
_TIME_LIMIT = 20  # Seconds, for each command.


class Fault(NamedTuple):
    """Attributes:
    kind: Of the damage.
    sort: Of the damaged file.
    paths: The damaged files or checkpoints; a message must name one of them.
    """

    kind: str
    sort: str
    paths: list[Path]

    def is_of(self, *sorts: str) -> bool:
        return any(_sort(path) in sorts for path in self.paths)


class Report(NamedTuple):
    """Attributes:
    outcomes: Number of them by command, damaged file, kind of damage, and outcome.
    wrong: One line for each fault that broke a promise.
    slowest: Largest time of a restoration or a resumed run, in seconds.
    """

    outcomes: collections.Counter[tuple[str, str, str, str]]
    wrong: list[str]
    slowest: float


class _BrokenPromiseError(Exception):
    pass


class _HangError(BaseException):
    """Not an Exception, which the code under test may catch."""


# Damage to a file. Each gets its path, another path to use, and a source of random numbers.


def flip_bit(path: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def overwrite_bytes(path: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    length = min(rng.randint(1, 16), len(data) - start)
    data[start : start + length] = rng.randbytes(length)
    path.write_bytes(data)


def truncate(path: Path, other: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def empty(path: Path, other: Path, rng: random.Random) -> None:
    os.truncate(path, 0)


def delete(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()


def append_garbage(path: Path, other: Path, rng: random.Random) -> None:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 100)) + rng.choice([b"", b"\n"]))


def become_a_folder(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "file").write_bytes(b"content")


def become_a_link(path: Path, other: Path, rng: random.Random) -> None:
    """A link to the same content, outside the workdir."""
    path.rename(other)
    path.symlink_to(other)


def become_a_pipe(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


FILE_DAMAGES = [
    flip_bit,
    overwrite_bytes,
    truncate,
    empty,
    delete,
    append_garbage,
    become_a_folder,
    become_a_link,
    become_a_pipe,
]


class _Target:
    """A workdir to be damaged, again and again, and what the commands must find in it.

    It has the checkpoints 20 and 40 of a run of 60 steps, with figures and graphs.
    """

    def __init__(self, folder: Path):
        self.workdir, self.outside = folder / "run", folder / "outside"
        self._whole, self._foreign = folder / "whole", folder / "foreign"
        self._config = processes.short_config(num_train_steps=_LAST_STEP)
        self._state = processes.abstract_state(self._config)
        interrupted = self._config.copy_and_resolve_references()
        interrupted.update(num_train_steps=_DAMAGED_STEP, figures=True)
        other = self._config.copy_and_resolve_references()
        other.seed = 1
        with contextlib.redirect_stdout(io.StringIO()):
            train_and_evaluate(interrupted, self._whole)
            train_and_evaluate(other, self._foreign)
            train_and_evaluate(self._config, folder / "uninterrupted")
        self._restored = self._restore_all(self._whole)
        self._resumed = self._remains(folder / "uninterrupted")

    @contextlib.contextmanager
    def damaged(self, rng: random.Random) -> Iterator[Fault]:
        """Creates the workdir, with one fault inside the context."""
        shutil.copytree(self._whole, self.workdir)
        self.outside.mkdir()
        try:
            yield self._damage(rng)
        finally:
            _remove(self.workdir)
            _remove(self.outside)

    def _damage(self, rng: random.Random) -> Fault:
        files = collections.defaultdict(list)
        for path in sorted(self.workdir.rglob("*")):
            if path.is_file():
                files[_sort(path)].append(path)
        # Not each file with the same probability: there are many more of a checkpoint.
        sort = rng.choice([*sorted(files), "whole checkpoint"])
        if sort == "whole checkpoint":
            return Fault(*self._damage_checkpoint(rng))
        path = rng.choice(files[sort])
        harm = rng.choice([*FILE_DAMAGES, None])
        if harm:
            harm(path, self.outside / "precious", rng)
            return Fault(harm.__name__, sort, [path])
        other = rng.choice([p for paths in files.values() for p in paths if p != path])
        path.rename(self.outside / "aside")
        other.rename(path)
        (self.outside / "aside").rename(other)
        return Fault("swap", sort, [path, other])

    def _damage_checkpoint(self, rng: random.Random) -> tuple[str, str, list[Path]]:
        checkpoints, sort = self.workdir / "checkpoints", "whole checkpoint"
        path = checkpoints / rng.choice(["20", "40"])
        kind = rng.choice(["delete", "copy from another run", "rename to another step"])
        if kind == "delete":
            shutil.rmtree(path)
        elif kind == "copy from another run":
            path = checkpoints / rng.choice(["20", "40", "60"])
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(self._foreign / "checkpoints" / path.name, path)
            # A message may also be about the workdir: its run has another config.
            return kind, sort, [path, self.workdir]
        else:
            renamed = checkpoints / rng.choice(["10", "20", "30", "40", "50", "60"])
            path.rename(self.outside / "aside")
            shutil.rmtree(renamed, ignore_errors=True)
            (self.outside / "aside").rename(renamed)
            path = renamed
        return kind, sort, [path]

    def restore(self, fault: Fault) -> str:
        """Restores as `evaluate` does; returns the outcome."""
        before = _snapshot(self.workdir)
        try:
            found = self._restore_all(self.workdir)
        finally:
            _check(_snapshot(self.workdir) == before, "restoring changed a file")
        expected = self._restored.values()
        for name, values in found.items():
            # Only a resumed run verifies the journal.
            is_unverified = name == "journal" and fault.is_of("metrics.jsonl")
            _check(values in expected or is_unverified, f"{name}: other values")
        return "unharmed"

    def _restore_all(self, workdir: Path) -> dict[str, tuple[Any, ...]]:
        """Returns what every way to restore finds; raises an error if one is refused."""
        found: dict[str, tuple[Any, ...]] = {}
        refused: list[CommandError] = []
        with Checkpoints(workdir) as checkpoints:
            steps = checkpoints.steps()
            for step in steps:
                try:
                    state = checkpoints.restore(step, self._state)
                except CommandError as error:
                    refused.append(error)
                else:
                    found[f"state {step}"] = int(state.step), _leaves(state)
        for selection in ("latest", "best", *map(str, steps)):
            try:
                model = restoring.restore(workdir, selection)
            except CommandError as error:
                refused.append(error)
            else:
                found[selection] = model.step, _leaves(model.variables)
        # What `evaluate --figures` draws.
        journal = read_journal(workdir, _DAMAGED_STEP)
        found["journal"] = tuple(json.dumps(line, sort_keys=True) for line in journal)
        if refused:
            raise refused[0]
        return found

    def resume(self, fault: Fault) -> str:
        """Resumes the run to its last step; returns the outcome."""
        config = self._config.copy_and_resolve_references()
        # Half a second each: only where it matters.
        config.figures = fault.is_of("figure")
        before = _snapshot(self.workdir)
        stderr = io.StringIO()
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(stderr),
            ):
                train_and_evaluate(config, self.workdir)
        except CommandError:
            after = _snapshot(self.workdir)
            if fault.kind == "swap" and (self.workdir / "damaged").exists():
                # Both files are damaged: the checkpoint is moved before the other is refused.
                before, after = (collections.Counter(x.values()) for x in (before, after))
            _check(after == before, "refused, but a file has changed")
            raise
        finally:
            jax.clear_caches()  # Otherwise the memory grows by 10 MB a run.
        warnings = stderr.getvalue().splitlines()
        _check(all(line.startswith("WARNING") for line in warnings), f"printed {warnings}")
        self._compare(fault)
        damaged = self.workdir / "damaged"
        if not damaged.exists():
            return "unharmed"
        moved = {path.name.split("-")[0] for path in damaged.iterdir()}
        hit = {_subject(path).name for path in fault.paths}
        _check(moved <= hit, f"moved {moved}, which were intact")
        _check(any(_names(line, fault) for line in warnings), f"warned of {warnings}")
        return "moved"

    def _compare(self, fault: Fault) -> None:
        actual, expected = self._remains(self.workdir), self._resumed
        if fault.sort == "whole checkpoint":  # There may be one less, or one of another step.
            actual, expected = actual._replace(steps=[]), expected._replace(steps=[])
        if fault.is_of("event file", "graph"):
            # Points of a damaged file may be lost, but none may be another one.
            _check(set(actual.points) <= set(expected.points), "other points")
            actual, expected = (
                x._replace(points=[point for point in x.points if point[1] > _DAMAGED_STEP])
                for x in (actual, expected)
            )
        for field in actual._fields:
            same = getattr(actual, field) == getattr(expected, field)
            _check(same, f"resumed with other {field}")

    def _remains(self, workdir: Path) -> processes.Remains:
        # The two runs began with another num_train_steps.
        found = processes.remains(workdir, self._config)
        return found.without_figures().without_description()


def inject(faults: Iterable[int], seed: int, folder: Path, resumed: float = 0.25) -> Report:
    """Injects faults, each given by a number.

    Resumes the run after the given share of them, and after each one in the journal, which is
    for a resumed run alone.
    """
    target = _Target(folder)
    report = Report(collections.Counter(), [], 0.0)
    for number in faults:
        rng = random.Random(f"{seed}/{number}")
        with target.damaged(rng) as fault:
            names = ", ".join(str(path.relative_to(target.workdir)) for path in fault.paths)
            commands: dict[str, Callable[[Fault], str]] = {"restore": target.restore}
            if rng.random() < resumed or fault.is_of("metrics.jsonl"):
                commands["resume"] = target.resume
            precious = _snapshot(target.outside)
            for name, command in commands.items():
                start = time.monotonic()
                try:
                    outcome = _observe(command, fault)
                    _check(_snapshot(target.outside) == precious, "a file outside has changed")
                except _BrokenPromiseError as error:
                    outcome = "WRONG"
                    report.wrong.append(f"{number}: {fault.kind} {names}: {name}: {error}")
                report.outcomes[name, fault.sort, fault.kind, outcome] += 1
                seconds = time.monotonic() - start
                report = report._replace(slowest=max(report.slowest, seconds))
        if sys.stderr.isatty():
            print(f"\r{number + 1} faults, {len(report.wrong)} wrong ", end="", file=sys.stderr)
    return report


def _observe(command: Callable[[Fault], str], fault: Fault) -> str:
    try:
        with _time_limit():
            return command(fault)
    except CommandError as error:
        message = str(error)
        _check("\n" not in message, f"more than one line: {message}")
        _check(_names(message, fault), f"not named: {message}")
        return "refused"
    except _HangError:
        raise _BrokenPromiseError("hangs") from None
    except _BrokenPromiseError:
        raise
    except Exception as error:
        raise _BrokenPromiseError(f"traceback: {error!r}") from error


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise _HangError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise _BrokenPromiseError(message)


def _sort(path: Path) -> str:
    """Returns what the file is, for the table."""
    if "default" in path.parts:
        if path.name == "manifest.json":
            return "manifest"
        return "arrays" if path.parent.name == "d" else "orbax's metadata"
    if "checkpoints" in path.parts:
        return "orbax's metadata"
    if path.parent.name == "figures":
        return "figure"
    if path.name.startswith("events."):
        return "graph" if ".graph." in path.name else "event file"
    return path.name


def _subject(path: Path) -> Path:
    """Returns what a message must name: of a checkpoint's file the checkpoint."""
    parts = path.parts
    if "checkpoints" in parts:
        return Path(*parts[: parts.index("checkpoints") + 2])
    return path


def _names(message: str, fault: Fault) -> bool:
    subjects = [_subject(path) for path in fault.paths]
    return any(str(path) in message for path in subjects) or (
        # A damaged run_id: which of the two is the wrong one can't be known.
        "as run_id says" in message and any(path.name == "run_id" for path in subjects)
    )


def _snapshot(folder: Path) -> dict[Path, str]:
    """Returns the content of every file as a digest; not of the lock, which runs write."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path] = str(path.readlink())
        elif path.is_file() and path.name != ".lock":
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _leaves(tree: Any) -> tuple[bytes, ...]:
    return tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_fifo():
            os.close(os.open(path, os.O_RDWR))  # Wakes a thread that hangs there.
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="The number of one fault, to repeat it.")
    parser.add_argument("--resumed", type=float, default=0.25, help="Share of the faults.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        numbers = range(arguments.faults) if arguments.only is None else [arguments.only]
        report = inject(numbers, arguments.seed, Path(folder), arguments.resumed)
    for name in ("restore", "resume"):
        for column, title in ((1, "file"), (2, "kind")):
            counts = collections.Counter[tuple[str, str]]()
            for key, number in report.outcomes.items():
                if key[0] == name:
                    counts[key[column], key[3]] += number
            print(f"\n{name}, by {title}:\n{format_table(counts, OUTCOMES)}")
    print(*["", *report.wrong], sep="\n")
    print(
        f"{len(numbers)} faults, {len(report.wrong)} broken promises; slowest command "
        f"{report.slowest:.1f} s"
    )
    raise SystemExit(bool(report.wrong))


if __name__ == "__main__":
    main()

"""Damages one random byte, or the length, of one file of a checkpoint, many times.

    python -m tests.faults.damage --faults 500

Each time, the parameters and the whole state are restored: they must have the saved values, or
be refused with one line. Nothing else may appear on stderr.
"""

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from mnist_jax import restoring
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.runtime.errors import DamagedCheckpointError
from mnist_jax.train_loop import train_and_evaluate
from tests.faults import processes
from tests.states import create_state


class Report(NamedTuple):
    """Attributes:
    faults: Number of damages, each to one file.
    refused: Number of those that were detected.
    unharmed: Number of those in a file that is never read.
    wrong: Damages after which other values were restored, or with another error.
    slowest: Largest time of both restorations, in seconds.
    """

    faults: int
    refused: int
    unharmed: int
    wrong: list[str]
    slowest: float


def inject(faults: int, seed: int, folder: Path) -> Report:
    rng = random.Random(seed)
    config = processes.short_config()
    config.update(num_train_steps=20)
    whole, workdir = folder / "whole", folder / "damaged"
    train_and_evaluate(config, whole)
    shutil.copytree(whole, workdir)
    files = sorted(p for p in (workdir / "checkpoints" / "20").rglob("*") if p.is_file())
    target = create_state(config)
    expected = _restore(whole, target)

    report = Report(faults, 0, 0, [], 0.0)
    for _ in range(faults):
        path = rng.choice(files)
        good = path.read_bytes()
        position, flips = rng.randrange(len(good)), rng.randrange(1, 256)
        if rng.random() < 0.75:
            damage = f"{path}: byte {position} ^ {flips}"
            flipped = bytes([good[position] ^ flips])
            path.write_bytes(good[:position] + flipped + good[position + 1 :])
        else:
            damage = f"{path}: cut to {position} bytes"
            path.write_bytes(good[:position])
        start = time.monotonic()
        try:
            actual = _restore(workdir, target)
        except DamagedCheckpointError as error:
            if "\n" in str(error):
                report.wrong.append(f"{damage}: more than one line: {error}")
            report = report._replace(refused=report.refused + 1)
        except Exception as error:
            report.wrong.append(f"{damage}: {error!r}")
        else:
            report = report._replace(unharmed=report.unharmed + 1)
            if actual != expected:
                report.wrong.append(f"{damage}: other values")
        report = report._replace(slowest=max(report.slowest, time.monotonic() - start))
        path.write_bytes(good)
    return report


def _restore(workdir: Path, target) -> list[bytes]:
    """Restores in both ways; both or none must raise an error."""
    with Checkpoints(workdir) as checkpoints:
        try:
            state = checkpoints.restore(20, target)
        except DamagedCheckpointError:
            try:
                restoring.restore(workdir)
            except DamagedCheckpointError:
                raise
            raise AssertionError("only one way detected the damage") from None
    params = restoring.restore(workdir).variables
    leaves = jax.tree.leaves((state.step, state.params, state.opt_state, params))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = inject(arguments.faults, arguments.seed, Path(folder))
    print(*report.wrong, sep="\n")
    print(
        f"{report.faults} faults: {report.refused} refused, {report.unharmed} in files that "
        f"nothing is read from, {len(report.wrong)} wrong; slowest {report.slowest:.2f} s"
    )
    raise SystemExit(bool(report.wrong))


if __name__ == "__main__":
    main()

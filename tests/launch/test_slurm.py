"""launch/slurm.sbatch as it is, on a real Slurm with two nodes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import jobs
from tests.conftest import ROOT
from tests.faults import processes
from tests.launch import slurm

SCRIPT = ROOT / "launch" / "slurm.sbatch"
# A checkpoint every 20 steps would take most of the time.
FIELDS = jobs.FIELDS | {"eval_every_steps": 200, "checkpoint_every_steps": 200}
ENDLESS = FIELDS | {"num_train_steps": 1_000_000}
on_a_cluster = pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[None]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")):
        yield


def submit(folder: Path, fields: dict[str, Any], *options: str) -> str:
    """Submits the script for a run in `folder/run`; returns the job's number.

    The config's fields are in `folder/flags`, for a requeued job to have others.
    """
    write_flags(folder, fields)
    environment = os.environ | jobs.devices(1) | {"PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    # What the nodes here don't have.
    smaller = ["--gpus-per-node=0", "--ntasks-per-node=1", "--cpus-per-task=1"]
    ended = subprocess.run(
        [
            *("sbatch", "--parsable", f"--output={folder / 'log'}", *smaller, *options),
            *(SCRIPT, f"--workdir={folder / 'run'}", f"--flagfile={folder / 'flags'}"),
        ],
        env=environment,
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return ended.stdout.strip()


def write_flags(folder: Path, fields: dict[str, Any]) -> None:
    flags = (f"--config.{name}={value}\n" for name, value in fields.items())
    (folder / "flags").write_text("".join(flags))


def wait_for_log(folder: Path, text: str) -> None:
    log = folder / "log"
    slurm.wait_until(lambda: log.exists() and text in log.read_text())


def wait_for_state(job: str, state: str) -> None:
    slurm.wait_until(lambda: slurm.job(job)["JobState"] == state)


def saved_step(folder: Path) -> int:
    (step,) = processes.newest(folder / "run")
    assert f"after step {step}, which is saved; " in (folder / "log").read_text()
    return step


@pytest.fixture
def stand_in(tmp_path: Path):
    """Returns a function that runs the script with an srun that prints its arguments."""
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", SCRIPT, *arguments],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "5"},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("arguments", [["--workdir=w"], ["--config.seed=1", "--workdir", "w"]])
def test_srun_is_given_the_cpus_and_the_flags(arguments, stand_in):
    ended = stand_in(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--cpus-per-task=5" in ended.stdout.split()
    assert ended.stdout.split()[-len(arguments) :] == arguments


@pytest.mark.parametrize(
    "arguments", [[], ["--config.seed=1"], ["--workdir"], ["--workdir="], ["--workdirs=w"]]
)
def test_without_a_workdir_it_is_refused(arguments, stand_in):
    """Each requeue would begin anew."""
    ended = stand_in(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("workdir: missing")


@pytest.mark.long
@on_a_cluster
def test_at_the_time_limit_the_job_saves_and_is_requeued(cluster, tmp_path: Path):
    """It ends with the bits of one process with two devices that was never interrupted."""
    # One minute is the shortest. Slurm looks at the limits every half minute.
    job = submit(tmp_path, ENDLESS, "--time=1", "--signal=B:USR1@60")
    wait_for_log(tmp_path, "Step 30:")
    # The requeued job waits until it has an end.
    slurm.command("scontrol", "update", "PartitionName=all", "State=DOWN")
    wait_for_state(job, "PENDING")
    step = saved_step(tmp_path)
    # Three checkpoints more, so that only those of both runs are kept.
    fields = FIELDS | {"num_train_steps": step - step % 200 + 600}
    write_flags(tmp_path, fields)
    slurm.command("scontrol", "update", "PartitionName=all", "State=UP")
    # Slurm gives a requeued job two minutes, but refuses it only in the second it was stopped.
    slurm.command("scontrol", "update", f"JobId={job}", "StartTime=now+2", "TimeLimit=10")
    wait_for_state(job, "COMPLETED")
    assert slurm.job(job)["Restarts"] == "1"
    assert f", steps {step + 1} to " in (tmp_path / "log").read_text()
    jobs.run(tmp_path / "whole", 1, 2, fields)
    jobs.assert_same_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.long
@on_a_cluster
def test_a_cancelled_job_saves_and_is_not_requeued(cluster, tmp_path: Path):
    """By a signal and at once; both jobs at the same time, because each takes 12 s."""
    ways = {"FAILED": ["--signal=TERM"], "CANCELLED": []}
    submitted = {}
    for state in ways:
        (tmp_path / state).mkdir()
        submitted[state] = submit(tmp_path / state, ENDLESS)
    for state, options in ways.items():
        wait_for_log(tmp_path / state, "Step 30:")
        slurm.command("scancel", *options, submitted[state])
    for state, job in submitted.items():
        wait_for_state(job, state)
        assert slurm.job(job)["Restarts"] == "0"
        assert saved_step(tmp_path / state) >= 30

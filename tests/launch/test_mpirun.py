"""launch/mpirun.sh, by a stand-in for mpirun and by Open MPI's."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import jobs
from tests.conftest import ROOT
from tests.faults import processes
from tests.faults.test_preemption import read_until

SCRIPT = ROOT / "launch" / "mpirun.sh"
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@pytest.fixture
def stand_in(tmp_path: Path):
    """Returns a function that runs the script as a user; its mpirun prints its arguments."""

    def run(user: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        for name, command in {"mpirun": 'printf "%s\\n" "$@"', "id": f"echo {user}"}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
            (tmp_path / name).chmod(0o755)
        return subprocess.run(
            ["/bin/bash", SCRIPT, *arguments],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"} | environment,
            capture_output=True,
            text=True,
        )

    return run


def test_arguments_before_the_dashes_are_mpiruns(stand_in):
    mpirun = ["--bind-to", "none", "--mca", "odls_base_sigkill_timeout", "10"]
    train = [
        *("python", "train.py", "--config", "configs/default.py"),
        *("--config.fallback_dataset=", "--distributed"),
    ]
    ended = stand_in(1000, "8", "--workdir=w")
    assert ended.stdout.split() == ["-n", "8", *mpirun, *train, "--workdir=w"]
    ended = stand_in(1000, "2", "--hostfile", "h", "--", "--workdir=w")
    assert ended.stdout.split() == [
        *("-n", "2", *mpirun, "--hostfile", "h", *train, "--workdir=w")
    ]


def test_root_is_told_what_to_set(stand_in):
    ended = stand_in(0, "2", "--workdir=w")
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert all(f"{name}={value}" in line for name, value in AS_ROOT.items())
    assert stand_in(0, "2", "--workdir=w", **AS_ROOT).returncode == 0
    assert stand_in(0, "2", "--allow-run-as-root", "--", "--workdir=w").returncode == 0


def start(workdir: Path, fields: dict[str, Any]) -> subprocess.Popen[str]:
    _, _, _, *flags = processes.train_command(workdir, fields)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path} | AS_ROOT | jobs.devices(1)
    return processes.start([str(SCRIPT), "2", "--oversubscribe", "--", *flags], env=environment)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("mpirun"), reason="needs mpirun (Debian: openmpi-bin)")
def test_signals_to_mpirun_save(tmp_path: Path):
    """Both at the same time, because mpirun takes 20 s: it waits before and after SIGTERM."""
    signals = (signal.SIGTERM, signal.SIGINT)
    started = {
        signum: start(tmp_path / signum.name, jobs.FIELDS | {"num_train_steps": 1_000_000})
        for signum in signals
    }
    for signum, mpirun in started.items():
        read_until(mpirun, "Step 30:")
        mpirun.send_signal(signum)
    for signum, mpirun in started.items():
        stderr = mpirun.communicate(timeout=120)[1]
        (step,) = processes.newest(tmp_path / signum.name)
        assert f"Stopped by SIGTERM after step {step}, which is saved; " in stderr
    # The last one resumes.
    fields = jobs.FIELDS | {"num_train_steps": step - step % 20 + 40}
    resumed = start(tmp_path / signum.name, fields)
    read_until(resumed, f", steps {step + 1} to {fields['num_train_steps']}")
    assert jobs.without_waiting(resumed.communicate(timeout=120)[1]) == ""
    assert resumed.returncode == 0

"""A Slurm cluster of two nodes on this machine: real daemons, their files in one folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.jobs import free_port

_DAEMONS = ("slurmctld", "slurmd")


def missing() -> str:
    """Returns why there can be no cluster here; "" where there can."""
    if absent := [name for name in _DAEMONS if not shutil.which(name)]:
        return f"needs {' and '.join(absent)} (Debian: slurmctld, slurmd)"
    if os.getuid() != 0:
        return "needs root, which slurmd runs as"
    return ""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Starts a cluster, and sets SLURM_CONF for the commands; ends it with all its jobs."""
    host = socket.gethostname().partition(".")[0]
    # A node's name is the coordinator's address, so the first one (in alphabetical order) has
    # this machine's.
    nodes = (host, f"{host}-2")
    settings = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": free_port(),
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/none",  # Without munge: everyone here is root.
        "CredType": "cred/none",
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1",
        "SlurmdParameters": "config_overrides",  # Two CPUs each, whatever the machine has.
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool-%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd-%n.pid",
        "PartitionName": f"all Nodes={','.join(nodes)} Default=YES MaxTime=INFINITE State=UP",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines += [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2"
        for node in nodes
    ]
    conf = folder / "slurm.conf"
    conf.write_text("\n".join(sorted(lines)) + "\n")  # NodeName before PartitionName.
    (folder / "state").mkdir()
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    commands = [["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", node] for node in nodes)]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "daemons.log").open("wb") as log:
            daemons += [
                subprocess.Popen(command, stdout=log, stderr=log) for command in commands
            ]
        wait_until(lambda: command("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", 30)
        yield
    finally:
        with contextlib.suppress(subprocess.CalledProcessError, TimeoutError):
            command("scancel", "--user=root")
            wait_until(lambda: command("squeue", "-h") == "", 40)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def command(*arguments: str | Path) -> str:
    """Runs one of Slurm's commands; returns what it printed."""
    ended = subprocess.run(arguments, capture_output=True, text=True)
    return ended.stdout.strip()


def job(number: str) -> dict[str, str]:
    """Returns the fields of a job: JobState, ExitCode, Restarts, Reason…"""
    words = command("scontrol", "show", "job", "--oneliner", number).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def wait_until(condition: Callable[[], bool], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {timeout} s")
        time.sleep(0.2)

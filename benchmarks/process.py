"""Runs a command and measures its time, processor time and memory, child processes included."""

import dataclasses
import os
import platform
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

_PROC = Path("/proc")
_MARK = "MNIST_JAX_BENCHMARK_RUN"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The measurement of one command.

    Attributes:
      wall_s: Seconds from its start to the end of its last process.
      cpu_s: Processor seconds, user and system, of the command and the children that it
        waited for.
      others_cores: Average number of cores that everything else on the machine used at the
        same time. If it is large, the other figures are not reliable.
      peak_pss_mib: Largest sum, over its processes, of their proportional set sizes (shared
        memory counts once); None if memory was not sampled.
      peak_rss_mib: Largest resident set of a single process; None likewise.
      stdout: What the command printed.
    """

    wall_s: float
    cpu_s: float
    others_cores: float
    peak_pss_mib: float | None
    peak_rss_mib: float | None
    stdout: str


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    sample_memory: bool = False,
    period_s: float = 0.03,
) -> Measurement:
    """Runs a command to its end.

    Its processes are recognised by a variable in their environment. So a child that outlives
    the command, or has its own session, is also waited for and counted.

    Args:
      command: The program and its arguments.
      env: Added to this process's environment; an empty value removes a variable.
      cwd: Working directory.
      sample_memory: Sample the memory of its processes. The kernel stops a process while it
        counts its pages, so the measured times can't be compared with others.
      period_s: Seconds between samples.

    Raises:
      RuntimeError: The command failed; the message contains the end of its stderr.
    """
    mark = uuid.uuid4().hex
    environment = {**os.environ, **(env or {}), _MARK: mark}
    environment = {name: value for name, value in environment.items() if value}
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        busy, start = _busy_seconds(), time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
        peak_pss_kib = peak_rss_kib = 0
        ended = threading.Event()
        family = _Family(f"{_MARK}={mark}")

        def sample() -> None:
            nonlocal peak_pss_kib, peak_rss_kib
            while not ended.wait(period_s):
                members = family.members()
                pss = sum(_kib(pid, "smaps_rollup", "Pss:") for pid in members)
                peak_pss_kib = max(peak_pss_kib, pss)
                # The kernel's own peak. That of rusage begins with the peak of the process
                # that started the command.
                peaks = (_kib(pid, "status", "VmHWM:") for pid in members)
                peak_rss_kib = max(peak_rss_kib, *peaks, 0)

        sampler = threading.Thread(target=sample)
        if sample_memory:
            sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            while family.members():
                time.sleep(0.005)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            ended.set()
            if sample_memory:
                sampler.join()
        wall_s = time.perf_counter() - start
        busy = _busy_seconds() - busy
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: exit code {process.returncode}\n{stderr.read()[-2000:]}"
            )
        cpu_s = usage.ru_utime + usage.ru_stime
        return Measurement(
            wall_s=wall_s,
            cpu_s=cpu_s,
            others_cores=max(0.0, busy - cpu_s) / wall_s,
            peak_pss_mib=peak_pss_kib / 1024 if sample_memory else None,
            peak_rss_mib=peak_rss_kib / 1024 if sample_memory else None,
            stdout=stdout.read(),
        )


def processor() -> str:
    """Returns the name of this machine's processor."""
    cpuinfo = _PROC / "cpuinfo"
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _busy_seconds() -> float:
    """Returns the processor seconds that the machine has used so far, summed over its cores."""
    user, nice, system, _, _, irq, softirq = map(
        int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


class _Family:
    """The processes whose environment contains a mark."""

    def __init__(self, mark: str):
        self._mark = mark.encode()
        self._others: set[str] = set()

    def members(self) -> list[int]:
        """Returns the ids of those that are running."""
        members = []
        for folder in _PROC.iterdir():
            if not folder.name.isdigit() or folder.name in self._others:
                continue
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except PermissionError:  # It belongs to another user.
                self._others.add(folder.name)
                continue
            except OSError:  # It has ended.
                continue
            if self._mark in environment:
                members.append(int(folder.name))
            elif environment != [b""]:  # Empty for a zombie, and while a process starts.
                self._others.add(folder.name)
        return members


def _kib(pid: int, file: str, field: str) -> int:
    """Returns a number from a process's file in /proc, in KiB; 0 if the process has ended."""
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)

"""Runs a command and measures it whole: time, processor time, memory of all its processes."""

import dataclasses
import os
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
    """What a command cost.

    Attributes:
      wall_s: Seconds from its start until the last of its processes was gone.
      cpu_s: Processor seconds, user and system, of it and the children it waited for.
      others_cores: Cores that everything else on the machine kept busy meanwhile, on
        average: how far the other figures can be trusted.
      peak_pss_mib: Largest sum over its processes of proportional set sizes (what two
        share counts once); None unless it was sampled.
      peak_rss_mib: Largest resident set that one of its processes had; None likewise.
      stdout: What it printed.
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

    Its children are known by a variable in their environment, so one that outlives it, or has
    a session of its own, is waited for and counted too.

    Args:
      command: The program and its arguments.
      env: Added to this process's environment; an empty value removes a variable.
      cwd: Where it runs.
      sample_memory: Sum its processes' memory every `period_s`. The kernel stops a process
        to walk its pages, so times measured so are not to be compared.
      period_s: Seconds between samples.

    Raises:
      RuntimeError: It failed; the message ends with the end of its stderr.
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
                # The kernel keeps this peak itself. Not rusage's, which begins with the
                # peak of the process that started it.
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


def _busy_seconds() -> float:
    """Returns the machine's processor seconds in use so far, all cores together."""
    user, nice, system, _, _, irq, softirq = map(
        int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


class _Family:
    """The processes that have a mark in their environment."""

    def __init__(self, mark: str):
        self._mark = mark.encode()
        self._strangers: set[str] = set()

    def members(self) -> list[int]:
        """Returns those that live now."""
        members = []
        for folder in _PROC.iterdir():
            if not folder.name.isdigit() or folder.name in self._strangers:
                continue
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except PermissionError:  # Another user's.
                self._strangers.add(folder.name)
                continue
            except OSError:  # It has gone.
                continue
            if self._mark in environment:
                members.append(int(folder.name))
            elif environment != [b""]:  # A zombie's, and for a moment one's that begins.
                self._strangers.add(folder.name)
        return members


def _kib(pid: int, file: str, field: str) -> int:
    """Returns a figure of a process's file in /proc, 0 where the process has gone."""
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)

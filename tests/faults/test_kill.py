"""A run that is killed repeatedly ends with the bits of an uninterrupted run."""

import os
import select
from pathlib import Path

from tests.faults import kill, processes
from tests.faults.test_preemption import read_until


def test_killed_runs_end_with_the_same_bits(tmp_path):
    configs = ["keep 1, a save every 4 steps"]
    report = kill.kill_runs(4, seed=3, folder=tmp_path, configs=configs)
    assert report.differences == []
    assert report.kills.total() == 4


def test_the_processes_of_a_killed_run_end_with_it(tmp_path):
    fields = processes.SHORT_RUN | {"figures": True}
    process = processes.start(processes.train_command(tmp_path / "run", fields))
    read_until(process, "Step 10:")
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [int(pid) for path in tasks for pid in path.read_text().split()]
    watched = [os.pidfd_open(pid) for pid in children]
    assert watched
    process.kill()
    process.communicate()
    for fd in watched:
        assert select.select([fd], [], [], 30)[0]  # Readable once it has ended.
        os.close(fd)

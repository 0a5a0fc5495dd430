"""A disk that is full, read-only or out of reach costs one line, and no checkpoint."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_jax import restoring
from mnist_jax.reporting.tensorboard import EventWriter
from mnist_jax.runtime import errors
from mnist_jax.runtime.errors import UserError, WriteError
from mnist_jax.train_loop import train_and_evaluate
from tests.faults import processes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def config(**fields):
    config = processes.short_config()
    config.update(num_train_steps=200, keep_checkpoints=1000, **fields)
    return config


def check_what_is_left(workdir: Path) -> int:
    """Returns the newest step; every checkpoint that is there is good."""
    steps = [
        int(path.name) for path in (workdir / "checkpoints").iterdir() if path.suffix == ""
    ]
    for step in steps:
        restoring.restore(workdir, str(step))
    return max(steps)


def test_a_disk_that_gets_full_during_the_run(small_disk: Path, tmp_path: Path):
    fields = processes.SHORT_RUN | {"num_train_steps": 100_000, "keep_checkpoints": 1000}
    workdir = small_disk / "run"
    ended = processes.run(processes.train_command(workdir, fields))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    line = ended.stderr.rstrip("\n")
    assert line.startswith(str(workdir))
    assert "can't be written to" in line
    assert "the same command" in line
    newest = check_what_is_left(workdir)

    remount(small_disk, "size=100m")
    longer = config()
    longer.num_train_steps = newest + 40
    for folder in (workdir, tmp_path / "whole"):
        train_and_evaluate(longer, folder)
    actual, expected = (processes.remains(x, longer) for x in (workdir, tmp_path / "whole"))
    assert actual.without_description() == expected.without_description()


@pytest.mark.long
@pytest.mark.parametrize("free_kilobytes", [0, 60])
def test_a_disk_that_was_full_before(small_disk: Path, free_kilobytes: int):
    available = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(available - 1024 * free_kilobytes))
    ended = processes.run(processes.train_command(small_disk / "run", processes.SHORT_RUN))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    line = ended.stderr.rstrip("\n")
    assert "No space left on device" in line


def test_the_reason_stays_in_a_line_that_is_shortened(tmp_path: Path):
    """TensorStore's own error, when the disk was full as it opened an array."""
    path = f"{tmp_path}/run/checkpoints/20.orbax-checkpoint-tmp/default.orbax-checkpoint-tmp"
    error = (
        'RESOURCE_EXHAUSTED: Error opening "zarr" driver: Error writing ".zarray" in OCDBT '
        f'database at local file "{path}/": Failed writing: "{path}/d/2d511b168c397a.__lock": '
        "Failed to write 300 bytes to file 3: No space left on device "
        f"[tensorstore_spec='{'x' * 500}'] [os_error_code='28']"
    )
    with (
        pytest.raises(WriteError, match=r"\(RESOURCE.*: No space left on device\); what"),
        errors.writing_to(tmp_path, ValueError),
    ):
        raise ValueError(error)


@pytest.mark.long
def test_a_disk_that_turns_read_only(small_disk: Path):
    workdir = small_disk / "run"
    remount(small_disk, "size=100m")
    train_and_evaluate(config(), workdir)
    longer = config()
    longer.num_train_steps = 400
    remount(small_disk, "ro")
    before = sorted(workdir.rglob("*"))
    ended = processes.run(processes.train_command(workdir, longer.to_dict()))
    assert ended.returncode == 2
    assert ended.stderr == f"workdir: {workdir}: Read-only file system; choose another\n"
    assert sorted(workdir.rglob("*")) == before
    ended = processes.run(processes.evaluate_command(workdir))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_workdir_without_permission(tmp_path: Path):
    workdir = tmp_path / "locked" / "run"
    workdir.parent.mkdir()
    workdir.parent.chmod(0o500)
    command = processes.train_command(workdir, processes.SHORT_RUN)
    if os.geteuid() == 0:  # Permissions do not hold root back, unless it gives that up.
        if not shutil.which("setpriv"):
            pytest.skip("root, and there is no setpriv")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    ended = processes.run(command)
    assert ended.returncode == 2
    assert ended.stderr == f"workdir: {workdir}: Permission denied; choose another\n"


def test_a_folder_in_the_place_of_the_journal(tmp_path: Path):
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match=r"metrics\.jsonl is a link or of the wrong kind"):
        train_and_evaluate(config(), tmp_path / "run")


def test_a_file_in_the_place_of_the_checkpoints(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match=r"checkpoints is a link or of the wrong kind"):
        train_and_evaluate(config(), tmp_path / "run")


def test_event_files_that_cannot_be_written(tmp_path: Path):
    """Raised at a later call, at the latest by the flush before a save."""
    (tmp_path / "logdir").write_text("a file")
    writer = EventWriter(tmp_path / "logdir")
    writer.call("write_scalars", 1, {"train/loss": 1.0})
    with pytest.raises(WriteError, match=r"logdir: can't be written to \(.+\)"):
        writer.flush()

"""A damaged checkpoint is never restored, never deleted, and stops no run."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_jax import restoring
from mnist_jax.runtime.errors import DamagedCheckpointError, UserError
from mnist_jax.train_loop import train_and_evaluate
from tests.faults import damage, processes
from tests.workdirs import contents


def test_no_fault_goes_unnoticed(tmp_path, capfd):
    report = damage.inject(range(25), seed=1, folder=tmp_path, resumed=0)
    assert report.wrong == []
    assert sum(n for key, n in report.outcomes.items() if "refused" in key) > 8
    assert capfd.readouterr().err == ""


def config():
    """With checkpoints of the steps 20 and 40."""
    config = processes.short_config()
    config.update(num_train_steps=40)
    return config


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def cut_short(folder: Path) -> None:
    for path in files(folder):
        os.truncate(path, path.stat().st_size // 2)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def half_delete(folder: Path) -> None:
    for path in files(folder)[::2]:
        path.unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "default" / "manifest.json").unlink()


def flip_a_byte(folder: Path) -> None:
    path = max(files(folder), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def become_a_link(folder: Path) -> None:
    folder.rename(folder.parent.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent.parent / "elsewhere")


def contain_a_link(folder: Path) -> None:
    (folder / "default" / "_METADATA").rename(folder.parent.parent.parent / "elsewhere")
    (folder / "default" / "_METADATA").symlink_to(folder.parent.parent.parent / "elsewhere")


def contain_a_pipe(folder: Path) -> None:
    (folder / "default" / "_METADATA").unlink()
    os.mkfifo(folder / "default" / "_METADATA")


DAMAGES = [
    cut_short,
    empty,
    half_delete,
    lose_the_manifest,
    flip_a_byte,
    become_a_file,
    become_a_link,
    contain_a_link,
    contain_a_pipe,
]


@pytest.mark.parametrize("harm", DAMAGES)
def test_training_resumes_from_the_newest_intact_one(
    harm: Callable[[Path], None], run: Path, complete_run: Path, capfd
):
    harm(run / "checkpoints" / "40")
    train_and_evaluate(config(), run)
    (line,) = capfd.readouterr().err.splitlines()
    assert "WARNING" in line
    assert "step 40 is damaged" in line
    assert f"moved to {run}/damaged/40-0" in line
    assert os.path.lexists(run / "damaged" / "40-0")
    assert processes.remains(run, config()) == processes.remains(complete_run, config())


@pytest.mark.parametrize("harm", DAMAGES)
def test_evaluation_refuses_it_and_restores_another(harm: Callable[[Path], None], run: Path):
    harm(run / "checkpoints" / "40")
    before = sorted(run.rglob("*"))
    for step in ("latest", "40", "best"):
        with pytest.raises(DamagedCheckpointError, match=r"step 40 is damaged.*one of 20, 40$"):
            restoring.restore(run, step)
    assert restoring.restore(run, "20").step == 20
    assert sorted(run.rglob("*")) == before


def test_files_that_the_run_did_not_write_are_no_damage(run: Path, capfd):
    """Of a file manager, an archive, a network file system, an editor; and links and pipes."""
    checkpoint = run / "checkpoints" / "40"
    for folder in [checkpoint, *(path for path in checkpoint.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "._d", "Thumbs.db", ".nfs0001", "manifest.json~"):
            (folder / name).write_text("foreign")
        (folder / "a_link").symlink_to(run.parent)
        os.mkfifo(folder / "a_pipe")
    assert restoring.restore(run, "40").step == 40
    longer = config()
    longer.num_train_steps = 60
    train_and_evaluate(longer, run)
    stdout, stderr = capfd.readouterr()
    assert "steps 41 to 60" in stdout
    assert stderr == ""


def test_if_all_are_damaged_the_run_starts_anew(run: Path, complete_run: Path, capfd):
    for step in ("20", "40"):
        flip_a_byte(run / "checkpoints" / step)
    train_and_evaluate(config(), run)
    assert len(capfd.readouterr().err.splitlines()) == 2
    assert processes.remains(run, config()) == processes.remains(complete_run, config())


def test_other_files_among_the_checkpoints_are_left_alone(run: Path, capfd):
    folder = run / "checkpoints"
    foreign = ["notes", "040", "-1", "²", "1.5", "60 (copy)"]
    for name in foreign:
        (folder / name).mkdir()
    (folder / "README").write_text("mine")
    longer = config()
    longer.num_train_steps = 60
    train_and_evaluate(longer, run)
    assert capfd.readouterr().err == ""
    assert {path.name for path in folder.iterdir()} == {*foreign, "README", "20", "40", "60"}


def test_a_damaged_journal_is_an_error_that_names_the_line(run: Path):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace('"', "'"), *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged; restore the file"):
        train_and_evaluate(config(), run)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "harm",
    [
        lambda lines: None,
        lambda lines: [],
        lambda lines: lines[:-1],
        lambda lines: [*lines[:-1], lines[-1][:-5]],
        lambda lines: [lines[0], lines[1].replace("0.0", "0.1", 1), *lines[2:]],
        lambda lines: [lines[0], lines[2], *lines[1:]],
        lambda lines: [lines[0], lines[1].replace('"step": 10', '"step": 90'), *lines[2:]],
    ],
    ids=["deleted", "emptied", "shorter", "cut", "a digit", "a line more", "a later step"],
)
def test_a_journal_that_is_not_what_the_run_wrote_is_refused_and_not_cut(harm, run: Path):
    path = run / "metrics.jsonl"
    harmed = harm(path.read_text().splitlines(keepends=True))
    path.unlink()
    if harmed is not None:
        path.write_text("".join(harmed))
    before = contents(run)
    longer = config()
    longer.num_train_steps = 60
    for settings in (config(), longer):
        with pytest.raises(UserError, match=r"metrics\.jsonl: l.*; restore the file") as error:
            train_and_evaluate(settings, run)
        assert "\n" not in str(error.value)
    assert contents(run) == before
    restoring.restore(run)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_damaged_event_file_does_not_stop_a_run(share: float, run: Path, complete_run: Path):
    """Its later points are lost; those of the resumed run are all there."""
    (path,) = run.glob("train/events.*.v2")
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 0xFF
    path.write_bytes(data)
    longer = config()
    longer.num_train_steps = 60
    train_and_evaluate(longer, run)
    train_and_evaluate(longer, complete_run.parent / f"longer-{share}")
    points = processes.remains(run, longer).points
    expected = processes.remains(complete_run.parent / f"longer-{share}", longer).points
    new = [point for point in points if point[1] > 40]
    assert new == [point for point in expected if point[1] > 40]


def test_the_command_prints_one_line(run: Path):
    flip_a_byte(run / "checkpoints" / "40")
    ended = processes.run(processes.evaluate_command(run))
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "the checkpoint of step 40 is damaged" in line
    ended = processes.run(processes.evaluate_command(run, "--step=20"))
    assert ended.returncode == 0
    assert ended.stderr == ""

"""Run folders: which paths are refused, the lock, and new folders."""

import os
import time
from pathlib import Path

import pytest

from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import UserError
from tests.workdirs import contents


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("", "workdir: missing"),
        ("~nobody_of_this_name/run", "workdir: ~nobody_of_this_name/run: "),
        ("x" * 300, "File name too long"),
        ("a_file", "Not a directory"),
        ("with_link", "metrics.jsonl is a link or of the wrong kind"),
        ("a[1]/run", r"can't contain '['"),
        ("a*", "can't contain '*'"),
        ("a?", "can't contain '?'"),
        ("a\\b", r"can't contain '\\'"),
        ("a\0b", "embedded null"),
        ("a\udc80b", "can't encode"),
    ],
)
def test_a_path_that_cannot_hold_a_run_is_refused(
    workdir: str, message: str, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("something")
    Path("with_link").mkdir()
    Path("with_link/metrics.jsonl").symlink_to("a_file")
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        run_folder.locate(workdir)
    assert str(error.value).startswith("workdir: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "the other"])
@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "metrics.jsonl",
        "events.out.tfevents.1.host",
        "results.json",
        "train",
        "test/events.out.tfevents.1.host",
        "checkpoints",
        "checkpoints/deleted",
        "damaged",
        "figures",
        "plugins",
        "plugins/profile",
        "plugins/profile/2026_01_01_00_00_00",
    ],
)
def test_an_entry_that_no_run_creates_is_refused(name: str, kind: str, tmp_path: Path):
    path, outside = tmp_path / "run" / name, tmp_path / "outside"
    is_file = name.startswith((".", "metrics", "results")) or "events" in name
    path.parent.mkdir(parents=True)
    create, other = (Path.touch, Path.mkdir) if is_file else (Path.mkdir, Path.touch)
    create(outside)
    match kind:
        case "link":
            path.symlink_to(outside)
        case "broken link":
            path.symlink_to(tmp_path / "nothing")
        case "pipe":
            os.mkfifo(path)
        case "the other":
            other(path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"{path} is a link or of the wrong kind") as error:
        run_folder.locate(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_other_links_in_the_folder_do_not_matter(tmp_path: Path):
    (tmp_path / "notes").symlink_to("/")
    assert run_folder.locate(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["run", "a b", "a]{}'\"$;&|#%~", "läuft", "-x", "a/../b"])
def test_other_paths_become_absolute(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder.locate(name) == tmp_path / name
    assert run_folder.locate(tmp_path / name) == tmp_path / name


def test_the_home_is_expanded(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder.locate("~/run") == tmp_path / "run"


def test_a_claimed_folder_is_locked_until_the_end(tmp_path: Path):
    workdir = tmp_path / "parent" / "run"
    for _ in range(2):
        with (
            run_folder.claim(workdir),
            pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "),
            run_folder.claim(workdir),
        ):
            pass


@pytest.mark.parametrize("parent", ["a_file", "/proc"])
def test_a_folder_that_cannot_be_created_is_refused(parent: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("")
    workdir = Path(parent, "run")
    message = rf"workdir: {workdir}.*: (Not a directory|No such file or directory); choose"
    with pytest.raises(UserError, match=message), run_folder.claim(workdir):
        pass
    with pytest.raises(UserError, match=message.replace(" ", " .*", 1)):
        run_folder.create_new(workdir)


def test_runs_that_start_in_the_same_second_have_different_folders(tmp_path: Path, monkeypatch):
    names = iter(["20260101-000000", "20260101-000000", "20260101-000001"])
    monkeypatch.setattr(time, "strftime", lambda format: next(names))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)
    created = [run_folder.create_new(Path("runs")) for _ in range(2)]
    assert created == [tmp_path / "runs" / f"20260101-00000{i}" for i in (0, 1)]
    assert all(path.is_dir() for path in created)

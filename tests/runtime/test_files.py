"""Files are opened without waiting, and written without following links."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_jax.runtime.files import open_regular, replacing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, and with everything else that a name may stand for."""
    (tmp_path / "file").write_bytes(b"good")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    return tmp_path


@pytest.mark.parametrize("mode", ["rb", "r+b", "ab", "ab+", "wb"])
@pytest.mark.parametrize("name", ["folder", "pipe", "device", "socket"])
def test_what_is_not_a_file_is_not_opened(name: str, mode: str, folder: Path):
    with pytest.raises(OSError, match=name):
        open_regular(folder / name, mode)


@pytest.mark.parametrize("mode", ["r+b", "ab", "ab+", "wb"])
@pytest.mark.parametrize("name", ["link", "broken"])
def test_nothing_is_written_through_a_link(name: str, mode: str, folder: Path):
    with pytest.raises(OSError, match=name):
        open_regular(folder / name, mode)
    assert (folder / "file").read_bytes() == b"good"
    assert not (folder / "nothing").exists()


def test_files_are_opened_as_by_open(folder: Path):
    for name in ("file", "link"):
        with open_regular(folder / name) as file:
            assert file.read() == b"good"
    with open_regular(folder / "new", "a") as file:
        file.write("text")
    assert (folder / "new").read_text() == "text"
    with pytest.raises(FileNotFoundError):
        open_regular(folder / "missing")


@pytest.mark.parametrize("name", ["file", "new"])
def test_a_name_is_replaced_by_a_file(name: str, folder: Path):
    before = sorted({*folder.iterdir(), folder / name})
    with replacing(folder / name) as file:
        file.write(b"new")
    assert (folder / name).read_bytes() == b"new"
    assert name == "file" or (folder / "file").read_bytes() == b"good"
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", ["folder", "pipe", "device", "socket", "link", "broken"])
def test_what_is_not_a_file_is_not_replaced(name: str, folder: Path):
    before = {path: path.lstat().st_ino for path in folder.iterdir()}
    with pytest.raises(OSError, match=name), replacing(folder / name) as file:
        file.write(b"new")
    assert {path: path.lstat().st_ino for path in folder.iterdir()} == before
    assert (folder / "file").read_bytes() == b"good"


def test_after_an_error_the_old_file_is_there_and_nothing_else(folder: Path):
    before = sorted(folder.iterdir())
    with pytest.raises(ZeroDivisionError), replacing(folder / "file") as file:
        file.write(b"ne" * (1 // 0))
    assert (folder / "file").read_bytes() == b"good"
    assert sorted(folder.iterdir()) == before


def test_what_a_killed_process_left_is_deleted_but_not_what_is_being_written(folder: Path):
    before = sorted({*folder.iterdir(), folder / "new"})
    program = (
        "import os, pathlib, signal\n"
        "from mnist_jax.runtime.files import replacing\n"
        "with replacing(pathlib.Path('file')) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=False)
    assert len([*folder.iterdir()]) == len(before)  # With its aside, and without the new file.
    with replacing(folder / "file") as slow:
        slow.write(b"sl")
        with replacing(folder / "new") as file:
            file.write(b"new")
        slow.write(b"ow")
    assert (folder / "file").read_bytes() == b"slow"
    assert (folder / "new").read_bytes() == b"new"
    assert sorted(folder.iterdir()) == before

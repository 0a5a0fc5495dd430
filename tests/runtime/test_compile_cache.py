"""Commands reuse what earlier ones compiled, and never read a damaged entry."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

from mnist_jax.runtime import compile_cache
from tests.faults import processes


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch) -> Path:
    """The user's cache folder, empty; JAX's own variables are not set."""
    for name in (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES",
    ):
        monkeypatch.setenv(name, "")  # Now monkeypatch restores it at the end.
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def command():
    """Enters the cache as a new process does, and yields the folder that JAX gets."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    with compile_cache.enabled():
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        yield folder and Path(folder)


def write(folder: Path, **entries: bytes) -> None:
    for name, content in entries.items():
        (folder / f"{name}-cache").write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name.removesuffix("-cache"): path.read_bytes() for path in folder.iterdir()}


def test_the_next_command_finds_the_entries():
    with command() as folder:
        assert read(folder) == {}
        write(folder, a=b"code")
    with command() as folder:
        assert read(folder) == {"a": b"code"}
        write(folder, b=b"more")
    with command() as folder:
        assert read(folder) == {"a": b"code", "b": b"more"}


@pytest.mark.parametrize("content", [b"cod", b"cole", b""])
def test_no_command_finds_a_damaged_entry(content: bytes):
    with command() as folder:
        write(folder, a=b"code", b=b"more")
    write(folder, a=content)
    for _ in range(2):
        with command() as folder:
            assert read(folder) == {}


@pytest.mark.parametrize("create", [os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_a_record_that_is_a_pipe_or_a_link_is_not_used(create, cache_home: Path):
    with command() as folder:
        pass
    folder.with_suffix(".sha256").unlink()
    create(folder.with_suffix(".sha256"))
    with command() as folder:
        assert folder is None
    assert not (cache_home / "mnist_jax" / "jit" / "elsewhere").exists()


def test_no_command_finds_the_entries_of_a_killed_one():
    with command() as folder:
        write(folder, a=b"code")
    write(folder, b=b"mo")
    with command() as folder:
        assert read(folder) == {}


def test_a_damaged_record_is_no_error(cache_home: Path):
    with command() as folder:
        write(folder, a=b"code")
    folder.with_suffix(".sha256").write_bytes(b"\xff\n")
    with command() as folder:
        assert read(folder) == {}


def test_commands_at_the_same_time_have_different_folders():
    with command() as first, command() as second:
        assert first != second
        write(second, a=b"code")
    with command() as folder:
        assert folder == first
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(command()) for _ in range(9)]
        assert read(folders[1]) == {"a": b"code"}
        assert len(set(folders)) == 9
        assert folders[8] is None


def test_a_folder_that_others_can_write_to_is_not_used():
    with command() as folder:
        write(folder, a=b"code")
    folder.parent.chmod(0o777)
    with command() as unused:
        assert unused is None
    folder.parent.chmod(0o700)
    with command() as folder:
        assert read(folder) == {"a": b"code"}


def test_a_cache_that_cannot_be_created_is_no_error(cache_home: Path, monkeypatch):
    (cache_home / "mnist_jax").write_text("a file")
    with command() as folder:
        assert folder is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with command() as folder:
        assert folder is None


def test_a_command_that_fails_keeps_its_entries():
    with contextlib.suppress(KeyError), command() as folder:
        write(folder, a=b"code")
        raise KeyError
    with command() as folder:
        assert read(folder) == {"a": b"code"}


def test_the_cache_is_bounded():
    with command() as folder:
        write(folder, **{f"entry{i}": b"code" for i in range(200)})
    with command() as folder:
        assert len(read(folder)) == 200
        write(folder, another=b"code")
    with command() as folder:
        assert read(folder) == {}


def test_jaxs_own_variable_wins(cache_home: Path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    with compile_cache.enabled():
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    assert list(cache_home.iterdir()) == []


def test_jax_reads_and_writes_the_entries_and_gives_no_warning(cache_home: Path):
    program = (
        "from mnist_jax.runtime import compile_cache\n"
        "with compile_cache.enabled():\n"
        "    import jax\n"
        "    jax.jit(lambda x: 2 * x)(1.0)\n"
    )
    folder = cache_home / "mnist_jax" / "jit" / "0"
    times = []
    for _ in range(3):
        ended = processes.run([sys.executable, "-c", program])
        assert ended == (0, "", "")
        (entry,) = folder.iterdir()
        times.append(entry.stat().st_mtime_ns)
        if len(times) == 2:
            entry.write_bytes(entry.read_bytes()[:-1])
    assert times[0] == times[1] < times[2]


@pytest.mark.long
def test_a_second_run_compiles_nothing_and_ends_with_the_same_bits(
    cache_home: Path, tmp_path: Path
):
    fields = processes.SHORT_RUN | {"num_train_steps": 20}
    entries = []
    for name in ("cold", "warm"):
        ended = processes.run(processes.train_command(tmp_path / name, fields))
        assert (ended.returncode, ended.stderr) == (0, "")
        entries.append(read(cache_home / "mnist_jax" / "jit" / "0"))
    assert processes.remains(tmp_path / "cold") == processes.remains(tmp_path / "warm")
    assert entries[0] == entries[1]
    assert {name.split("-")[0] for name in entries[0]} >= {
        "jit_init",
        "jit_train_steps",
        "jit_eval_step",
    }

"""Commands reuse what earlier ones compiled, and never use a damaged entry."""

import os
import sys
import warnings
from pathlib import Path

import pytest

from mnist_jax.runtime import compile_cache
from tests.faults import processes

PROGRAM = """
from mnist_jax.runtime import compile_cache
compile_cache.enable()
import jax
print(jax.jit(lambda x: 2 * x)(1.0))
"""


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
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def enable() -> Path | None:
    """Enables the cache as a new process does, and returns the folder that JAX gets."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    compile_cache.enable()
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(folder) if folder else None


def run(first: str = "") -> None:
    ended = processes.run([sys.executable, "-c", first + PROGRAM])
    assert ended == (0, "2.0\n", "")


def damage(entry: Path, kind: str) -> None:
    content = entry.read_bytes()
    place = len(content) // 2
    changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    entry.write_bytes({"changed": changed, "truncated": content[:-1], "emptied": b""}[kind])


@pytest.mark.parametrize("kind", ["changed", "truncated", "emptied"])
def test_a_damaged_entry_is_compiled_again_without_a_warning(cache_home: Path, kind: str):
    run()
    (entry,) = (cache_home / "mnist_jax" / "compiled").iterdir()
    written = entry.stat().st_mtime_ns
    run()
    assert entry.stat().st_mtime_ns == written
    damage(entry, kind)
    run()
    healed = entry.stat().st_mtime_ns
    assert healed > written
    run()
    assert entry.stat().st_mtime_ns == healed


def test_an_entry_that_can_not_be_written_is_left_to_the_next_command(cache_home: Path):
    run("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))")
    folder = cache_home / "mnist_jax" / "compiled"
    assert list(folder.iterdir()) == []
    run()
    assert len(list(folder.iterdir())) == 1


def test_other_warnings_are_shown_as_before(monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *arguments: shown.append(arguments))
    assert enable()
    warnings.showwarning("another", UserWarning, "file.py", 1)
    assert shown == [("another", UserWarning, "file.py", 1)]


def test_a_folder_that_others_can_write_to_is_not_used():
    folder = enable()
    folder.chmod(0o777)
    assert enable() is None
    folder.chmod(0o700)
    assert enable() == folder


def test_a_cache_that_cannot_be_created_is_no_error(cache_home: Path, monkeypatch):
    (cache_home / "mnist_jax").write_text("a file")
    assert enable() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert enable() is None


def test_where_jax_would_use_zstd_which_notices_no_damage_there_is_no_cache(monkeypatch):
    monkeypatch.setattr(compile_cache, "find_spec", "zstandard".__eq__)
    assert enable() is None


def test_the_cache_is_bounded():
    folder = enable()
    for number in range(200):
        (folder / f"entry{number}-cache").touch()
    assert len(list(enable().iterdir())) == 200
    (folder / "another-cache").touch()
    assert list(enable().iterdir()) == []


def test_jaxs_own_variable_wins(cache_home: Path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    compile_cache.enable()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    assert list(cache_home.iterdir()) == []


@pytest.mark.long
def test_a_second_run_compiles_nothing_and_ends_with_the_same_bits(
    cache_home: Path, tmp_path: Path
):
    fields = processes.SHORT_RUN | {"num_train_steps": 20}
    entries = []
    for name in ("cold", "warm"):
        ended = processes.run(processes.train_command(tmp_path / name, fields))
        assert (ended.returncode, ended.stderr) == (0, "")
        folder = cache_home / "mnist_jax" / "compiled"
        entries.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert processes.remains(tmp_path / "cold") == processes.remains(tmp_path / "warm")
    assert entries[0] == entries[1]
    assert {name.split("-")[0] for name in entries[0]} >= {
        "jit_init",
        "jit_train_steps",
        "jit_eval_step",
    }

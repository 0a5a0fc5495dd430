"""Commands find what earlier ones compiled, and trust nothing else."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from mnist_jax.runtime import compile_cache
from tests.faults import processes


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch) -> Path:
    """The user's cache folder, empty, with nothing said of JAX's own cache."""
    for name in (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_ENABLE_COMPILATION_CACHE",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES",
    ):
        monkeypatch.setenv(name, "")  # So that it is put back at the end.
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def entries(cache_home: Path) -> list[Path]:
    return sorted(path for path in cache_home.rglob("*") if path.is_file())


def command(*, writes: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """What a command finds in JAX's cache, to which it then adds."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    with compile_cache.kept():
        folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        for name, content in (writes or {}).items():
            (folder / name).write_bytes(content)
    assert not folder.exists()
    return found


def test_what_one_command_compiled_the_next_finds(cache_home):
    assert command(writes={"jit_a-1-cache": b"code"}) == {}
    assert command(writes={"jit_b-2-cache": b"more"}) == {"jit_a-1-cache": b"code"}
    assert command() == {"jit_a-1-cache": b"code", "jit_b-2-cache": b"more"}


@pytest.mark.parametrize("content", [b"cod", b"cole", b""])
def test_a_damaged_entry_is_deleted(cache_home, content):
    command(writes={"jit_a-1-cache": b"code", "jit_b-2-cache": b"more"})
    entries(cache_home)[0].write_bytes(content)
    assert command() == {"jit_b-2-cache": b"more"}
    assert len(entries(cache_home)) == 1


def test_a_folder_that_others_can_write_to_is_not_used(cache_home):
    command(writes={"jit_a-1-cache": b"code"})
    (entry,) = entries(cache_home)
    entry.parent.chmod(0o777)
    assert command(writes={"jit_b-2-cache": b"more"}) == {}
    assert entries(cache_home) == [entry]
    entry.parent.chmod(0o700)
    assert command() == {"jit_a-1-cache": b"code"}


def test_a_folder_that_cannot_be_made_costs_nothing(cache_home):
    (cache_home / "mnist_jax").write_text("a file")
    assert command(writes={"jit_a-1-cache": b"code"}) == {}
    assert command() == {}


@pytest.mark.parametrize(
    ("place", "error"),
    [("tempfile.TemporaryDirectory", OSError), ("pathlib.Path.home", RuntimeError)],
)
def test_without_a_place_for_it_there_is_none(cache_home, monkeypatch, place, error):
    def fail(*unused, **also_unused) -> NoReturn:
        raise error("nowhere")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(place, fail)
    with compile_cache.kept():
        assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_command_that_fails_adds_nothing(cache_home):
    def fail() -> NoReturn:
        Path(os.environ["JAX_COMPILATION_CACHE_DIR"], "jit_a-1-cache").write_bytes(b"code")
        raise KeyError

    with pytest.raises(KeyError), compile_cache.kept():
        fail()
    assert entries(cache_home) == []


def test_it_does_not_grow_without_end(cache_home):
    for number in range(0, 300, 60):
        command(writes={f"jit_{n}-cache": b"code" for n in range(number, number + 60)})
    assert len(entries(cache_home)) == 100
    assert "jit_299-cache" in command()


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_COMPILATION_CACHE_DIR", "/elsewhere"), ("JAX_ENABLE_COMPILATION_CACHE", "false")],
)
def test_jaxs_own_settings_win(cache_home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with compile_cache.kept():
        assert os.environ.get("JAX_COMPILATION_CACHE_DIR") in (None, "/elsewhere")


@pytest.mark.long
def test_a_second_run_compiles_nothing_and_ends_with_the_same_bits(cache_home, tmp_path):
    fields = processes.SHORT_RUN | {"num_train_steps": 20}
    remains = []
    for name in ("cold", "warm"):
        ended = processes.run(processes.train_command(tmp_path / name, fields))
        assert (ended.returncode, ended.stderr) == (0, "")
        remains.append((processes.remains(tmp_path / name), entries(cache_home / "mnist_jax")))
    assert remains[0] == remains[1]
    assert {path.name.split("-")[0] for path in remains[0][1]} >= {
        "jit_init",
        "jit_train_steps",
        "jit_eval_steps",
    }

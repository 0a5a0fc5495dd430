"""The memory that a run may use."""

import resource

import pytest

from mnist_jax.runtime import memory


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """The folder of the outermost control group, without a limit."""
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    return tmp_path


def test_the_host_has_some(groups):
    assert 10**8 < memory.host_limit() < 10**15


def test_a_limit_of_the_control_group_counts(groups):
    (groups / "memory.max").write_text("300000000\n")
    assert memory.host_limit() == 300_000_000


def test_a_limit_of_the_shell_counts(groups, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200_000_000, -1))
    assert memory.host_limit() == 200_000_000
    assert memory.device_limit() <= 200_000_000

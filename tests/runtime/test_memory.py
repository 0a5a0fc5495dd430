"""The memory that a run may use."""

import resource

import pytest

from mnist_jax.runtime import memory


@pytest.fixture
def control_group(tmp_path, monkeypatch):
    """The limit of the control group: none."""
    file = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTROL_GROUP", file)
    file.write_text("max\n")
    return file


def test_the_host_has_some(control_group):
    assert 10**8 < memory.device_limit() < 10**15


def test_a_limit_of_the_control_group_counts(control_group):
    control_group.write_text("300000000\n")
    assert memory.device_limit() == 300_000_000


def test_a_limit_of_the_shell_counts(control_group, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200_000_000, -1))
    assert memory.device_limit() == 200_000_000

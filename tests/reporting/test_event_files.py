import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mnist_jax.reporting import event_files
from mnist_jax.reporting.tensorboard import import_summary_writer


@pytest.fixture
def path(tmp_path):
    writer = import_summary_writer()(str(tmp_path))
    for step in (0, 10, 20, 30):
        writer.write_scalars(step, {"train/loss": np.float32(step)})
    writer.close()
    (path,) = tmp_path.glob("events.*")
    return path


def steps(path):
    return [event.step for event in EventFileLoader(str(path)).Load() if event.summary.value]


def test_events_up_to_the_step_are_kept(path):
    whole = path.read_bytes()
    event_files.truncate(path.parent, 30)
    assert path.read_bytes() == whole
    event_files.truncate(path.parent, 20)
    assert steps(path) == [0, 10, 20]
    assert whole.startswith(path.read_bytes())


def test_a_run_that_starts_anew_has_none(path):
    event_files.truncate(path.parent, 0)
    assert not path.exists()


def test_a_file_without_events_is_deleted(path):
    path.write_bytes(path.read_bytes()[:50])
    event_files.truncate(path.parent, 20)
    assert not path.exists()


def test_an_incomplete_event_at_the_end_is_removed(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    event_files.truncate(path.parent, 100)
    assert steps(path) == [0, 10, 20]


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_any_damage_leaves_a_readable_file(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0xFF
    path.write_bytes(content)
    event_files.truncate(path.parent, 20)
    assert not path.exists() or path.read_bytes() == content[: path.stat().st_size]

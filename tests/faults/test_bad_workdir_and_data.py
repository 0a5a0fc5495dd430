"""Mistakes that only the workdir or the data tell: one line, nothing changed on disk."""

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mnist_jax import restoring
from mnist_jax.runtime.errors import UserError
from mnist_jax.train_loop import train_and_evaluate
from tests.faults import processes
from tests.workdirs import contents

MNIST = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "run"
    train_and_evaluate(config(), workdir)
    return workdir


def config(**fields: Any):
    config = processes.short_config()
    config.update(num_train_steps=20, **fields)
    return config


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"dataset": "mnist_5k"},
        {"hidden_sizes": (17,)},
        {"hidden_sizes": ()},
        {"optimizer": "adam", "momentum": 0.0},
        {"learning_rate": 0.02},
        {"schedule": "cosine"},
        {"warmup_steps": 5},
        {"momentum": 0.8},
        {"weight_decay": 0.1},
        {"grad_clip_norm": 1.0},
        {"batch_size": 31},
    ],
    ids=str,
)
def test_going_on_with_other_values_is_refused(fields: dict[str, Any], run: Path):
    before = contents(run.parent)
    with pytest.raises(UserError) as error:
        train_and_evaluate(config(**fields), run)
    for name, value in fields.items():
        assert f"config.{name}: {value!r} here, {config()[name]!r} there" in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(run.parent) == before


def test_what_does_not_decide_the_numbers_may_change(run: Path, tmp_path: Path):
    workdir = shutil.copytree(run, tmp_path / "run")
    changed = config(
        fallback_dataset="",
        data_dir=str(tmp_path),
        manual_dir=str(tmp_path),
        steps_per_call=7,
        log_every_steps=9,
        eval_every_steps=5,
        eval_batch_size=100,
        checkpoint_every_steps=3,
        keep_checkpoints=1,
    )
    changed.num_train_steps = 40
    assert train_and_evaluate(changed, workdir).step == 40


def test_a_batch_larger_than_the_split_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"batch_size: 2001 is more than the 2000 training"):
        train_and_evaluate(config(batch_size=2001), tmp_path / "run")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("step", ["21", "0", "-1", "newest", "", "1e1", "²", "20.0"])
def test_a_step_that_is_not_there_is_refused(step: str, run: Path):
    before = contents(run)
    with pytest.raises(UserError, match=r"^step: ") as error:
        restoring.restore(run, step)
    assert "\n" not in str(error.value)
    assert contents(run) == before


@pytest.mark.parametrize("workdir", ["", "missing", "a_file", "empty", "~nobody_of_this_name"])
def test_a_workdir_without_a_run_cannot_be_restored(workdir: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("")
    Path("empty").mkdir()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"^workdir: ") as error:
        restoring.restore(workdir)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    """Files of MNIST's names that are not MNIST's: right in form, wrong in content."""
    folder = tmp_path_factory.mktemp("archives")
    for name in MNIST:
        (folder / name).write_bytes(gzip.compress(bytes(1000)))
    return folder


def wrong_content(path: Path) -> None:
    pass


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def no_gzip(path: Path) -> None:
    path.write_bytes(b"<html>404</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [wrong_content, cut_short, no_gzip, empty])
def test_an_archive_that_is_not_the_datasets_own(harm, archives: Path, tmp_path: Path):
    folder = shutil.copytree(archives, tmp_path / "archives")
    for name in MNIST:
        harm(folder / name)
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        train_and_evaluate(
            config(dataset="mnist", data_dir=str(tmp_path / "data"), manual_dir=str(folder)),
            tmp_path / "run",
        )
    assert "-ubyte.gz: not the file of mnist: its SHA-256 is" in str(error.value)
    assert "expected" in str(error.value)
    assert "copy or download it again" in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


@pytest.mark.long
def test_real_mistakes_of_all_kinds_by_command(run: Path, tmp_path: Path, archives: Path):
    """The ways out of the loop, the data and the evaluation, through the command itself."""
    short = processes.SHORT_RUN | {"num_train_steps": 20}
    processes.check_refused(
        tmp_path, processes.train_command(run, short | {"seed": 1}), "config.seed: 1"
    )
    processes.check_refused(
        tmp_path, processes.evaluate_command(run, "--step=21"), "best or one of 20"
    )
    processes.check_refused(tmp_path, processes.evaluate_command(run, "--split=dev"), "split")
    processes.check_refused(
        tmp_path, processes.evaluate_command(tmp_path), "contains no checkpoints"
    )
    command = processes.train_command(tmp_path / "run", short | {"batch_size": 2001})
    processes.check_refused(tmp_path, command, "config.batch_size: 2001 is more")
    data = {"data_dir": tmp_path / "data", "manual_dir": archives}
    command = processes.train_command(tmp_path / "run", short | data | {"dataset": "mnist"})
    processes.check_refused(tmp_path, command, "its SHA-256 is")
    command = processes.train_command(tmp_path / "run", short | data | {"dataset": "mnits"})
    processes.check_refused(tmp_path, command, "did you mean mnist?")
    assert not os.path.lexists(tmp_path / "run")


def test_a_network_beyond_ulimit_is_refused_at_once(tmp_path: Path):
    """It once waited for ever, deaf to signals, for an array that could not be allocated."""
    fields = {"dataset": "fake", "hidden_sizes": (65536, 65536)}
    train = processes.train_command("run", fields)
    limited = ["bash", "-c", 'ulimit -v 14000000; exec "$@"', "bash", *train]
    processes.check_refused(
        tmp_path, limited, "config.hidden_sizes: the run needs at least 34.8"
    )

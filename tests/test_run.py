"""A run is opened only where everything fits, and changes nothing on disk otherwise."""

import hashlib
import json
from typing import NoReturn

import pytest
from ml_collections import ConfigDict

from mnist_jax.checkpointing import Checkpoints
from mnist_jax.data import builtin
from mnist_jax.run import open_run
from mnist_jax.runtime import memory, run_folder
from mnist_jax.runtime.errors import DatasetUnavailableError, UserError
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.train_loop import train_and_evaluate
from tests.states import create_state
from tests.workdirs import journal


def test_an_open_run_has_what_the_loop_needs(fake_config, tmp_path):
    with open_run(fake_config, tmp_path / "run", "name") as run:
        assert run.workdir == tmp_path / "run"
        assert run.dataset.sizes == {"train": 2000, "validation": 500, "test": 500}
        images = run.source.feed(run.eval_indices["test"][0])[0]["image"]
        assert images.shape == (3000, 28, 28)
        assert list(run.eval_indices) == ["train", "validation", "test"]
        assert (run.config.data_dir, run.config.manual_dir) != ("", "")
        assert run.config.is_locked
        with (
            pytest.raises(UserError, match="is in use by process"),
            open_run(fake_config, tmp_path / "run", "name"),
        ):
            pass


def test_resuming_reads_each_file_of_the_newest_checkpoint_once(
    fake_config, tmp_path, monkeypatch
):
    train_and_evaluate(fake_config, tmp_path)
    hashed = []
    real_digest = hashlib.file_digest

    def digest(file, name):
        hashed.append(file.name)
        return real_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    train_and_evaluate(fake_config, tmp_path)
    assert hashed
    assert len(hashed) == len(set(hashed))
    assert all("checkpoints/40/" in name for name in hashed)


def test_a_run_that_another_process_began_meanwhile_is_not_mixed_with_this_one(
    fake_config, tmp_path, monkeypatch
):
    """It fell back, between the first look at the workdir and the lock: another dataset."""
    real_claim = run_folder.claim
    fake_config.fallback_dataset = "mnist_5k"

    def claim(workdir):
        other = ConfigDict(fake_config.to_dict() | {"dataset": "mnist_5k"})
        with Checkpoints(workdir, keep=1) as checkpoints:
            state = create_state(other)
            checkpoints.save(state, Manifest(20, other, "0123456789", None))
        return real_claim(workdir)

    monkeypatch.setattr(run_folder, "claim", claim)
    with pytest.raises(UserError, match=r"config\.dataset: 'fake' here, 'mnist_5k' there"):
        train_and_evaluate(fake_config, tmp_path)


def test_a_batch_larger_than_the_split_is_refused(fake_config, tmp_path):
    fake_config.batch_size = 2001
    with pytest.raises(UserError, match=r"config\.batch_size: 2001 is more than the 2000"):
        train_and_evaluate(fake_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_sizes": (2000,)}, "hidden_sizes: the run needs at least 0.0 GB"),
        ({"num_seeds": 60}, "num_seeds: the run needs at least"),
        ({"examples": "device"}, "examples: 0.0 GB of examples do not fit into a device's 0.0"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused(
    fake_config, tmp_path, monkeypatch, fields, message
):
    monkeypatch.setattr(memory, "device_limit", lambda: 2_000_000)
    fake_config.update(fields)
    with pytest.raises(UserError, match=rf"^config\.{message}.*; (reduce it|set it to host)$"):
        train_and_evaluate(fake_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fallback_run_names_what_it_was_trained_on(no_network, fake_config, tmp_path, capsys):
    fake_config.update(dataset="mnist", fallback_dataset="mnist_5k", num_train_steps=20)
    fake_config.data_dir = str(tmp_path / "nothing")
    train_and_evaluate(fake_config, tmp_path / "run")
    printed = capsys.readouterr()
    assert "WARNING: mnist is not available, so this run uses mnist_5k" in printed.err
    assert "Training on mnist_5k (4,000 examples; 500 to validate, 500 to test)" in printed.out
    assert printed.out.count("Data Eval: [mnist_5k]") == 3
    assert {line["dataset"] for line in journal(tmp_path / "run")} == {"mnist_5k"}
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.manifest(20).config.dataset == "mnist_5k"
    # The same command resumes with it, even if MNIST is available by now.
    fake_config.num_train_steps = 40
    assert int(train_and_evaluate(fake_config, tmp_path / "run").step) == 40
    assert (
        json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["dataset"]
        == "mnist_5k"
    )


def test_a_run_that_exists_never_falls_back(fake_config, tmp_path, monkeypatch, capsys):
    train_and_evaluate(fake_config, tmp_path / "run")
    capsys.readouterr()
    make_fake = builtin.make_fake
    monkeypatch.setattr(builtin, "make_fake", unavailable)
    fake_config.fallback_dataset = "mnist_5k"
    with pytest.raises(DatasetUnavailableError, match="gone since"):
        train_and_evaluate(fake_config, tmp_path / "run")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(builtin, "make_fake", make_fake)
    train_and_evaluate(fake_config, tmp_path / "run")


def unavailable(seed: int) -> NoReturn:
    raise DatasetUnavailableError("gone since")

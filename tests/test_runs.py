"""The commands `mnist-jax runs` and `mnist-jax configs`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_jax.runtime import run_folder
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import ROOT, create_fake_config
from tests.workdirs import contents, journal


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "mnist_jax", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def rows(*arguments: str, folder: Path) -> list[dict]:
    ended = run("runs", "--json", *arguments, folder=folder)
    assert ended.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert not imported & {"jax", "tensorflow"}
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with two runs, of which one has continued without reaching its end."""
    folder = tmp_path_factory.mktemp("experiments")
    config = create_fake_config()
    train_and_evaluate(config, folder / "runs" / "one")
    config.update(seed=3, num_seeds=2)
    train_and_evaluate(config, folder / "runs" / "deeper" / "two")
    (folder / "runs" / "deeper" / "two" / "results.json").unlink()
    (folder / "runs" / "notes").mkdir()
    return folder


def test_a_row_says_what_a_run_is_and_how_far_it_came(folder):
    before = contents(folder)
    two, one = rows(folder=folder)
    assert contents(folder) == before
    paths = [f"{folder}/runs/deeper/two", f"{folder}/runs/one"]
    assert [two["run"], one["run"]] == paths
    assert (one["state"], two["state"]) == ("complete", "interrupted")
    assert (one["step"], one["num_train_steps"], one["seeds"], two["seeds"]) == (40, 40, 1, 2)
    lines = journal(Path(one["run"]))
    best = max(line["validation/accuracy"] for line in lines[1:] if "test/loss" in line)
    assert (one["best"], one["test"]) == (best, lines[-1]["test/accuracy"])
    assert one["config"]["hidden_sizes"] == [16]
    assert (two["config"]["seed"], "seed" in one["config"]) == (3, False)
    printed = run("runs", "--sort", "seeds", folder=folder).stdout.splitlines()
    assert [line.split()[:3] for line in printed] == [
        ["run", "state", "step"],
        [paths[1], "complete", "40/40"],
        [paths[0], "interrupted", "40/40"],
    ]


def test_the_lock_tells_that_a_run_is_running(folder):
    with run_folder.claim(folder / "runs" / "one"):
        (one,) = rows("runs/one", folder=folder)
    assert one["state"] == "running"


def test_a_damaged_run_does_not_hide_the_others(folder, tmp_path):
    (tmp_path / "other" / "checkpoints" / "20" / "default").mkdir(parents=True)
    (tmp_path / "other" / "metrics.jsonl").write_text("{\n")
    other, one = rows("--sort", "step", str(tmp_path), "runs/one", folder=folder)[::-1]
    assert (one["state"], other["step"]) == ("complete", None)
    assert other["state"].startswith("unreadable: ")


def test_a_damaged_newest_checkpoint_is_told(folder, tmp_path):
    shutil.copytree(folder / "runs" / "one", tmp_path / "one")
    (tmp_path / "one/checkpoints/40/default/manifest.json").write_text("{}")
    (one,) = rows(str(tmp_path), folder=folder)
    assert one["state"].startswith("checkpoint 40 is damaged: ")
    assert one["step"] == 40


def test_a_folder_without_runs_is_an_error(tmp_path):
    ended = run("runs", ".", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "folder: . contains no runs; choose another" in ended.stderr


def test_configs_are_listed_and_found_by_name(tmp_path):
    listed = run("configs", folder=tmp_path).stdout.splitlines()
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert [line.split()[0] for line in listed[::2]] == names
    assert "test accuracy 0.9014" in listed[2 * names.index("default") + 1]
    for name in ("adamw", "lecun:300-100"):
        # The config is read, so the next error is one of its fields.
        ended = run("train", "--config", name, "--config.batch_size=0", folder=tmp_path)
        assert "config.batch_size: 0 is not an integer from 1" in ended.stderr

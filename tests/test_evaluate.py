"""`mnist-jax evaluate`, as its users run it."""

import json
import os
import subprocess
import sys

import pytest

from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import ROOT, create_fake_config
from tests.workdirs import contents, journal


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    config = create_fake_config()
    config.update(optimizer="adam", num_train_steps=60)
    train_and_evaluate(config, folder)
    return folder


def evaluate(*args, **environment) -> subprocess.CompletedProcess:
    """Runs the command in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mnist_jax", "evaluate", *map(str, args)],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


def test_json_is_one_object_with_the_runs_own_numbers(workdir):
    before = contents(workdir)
    result = evaluate("--workdir", workdir, "--json", JAX_NUM_CPU_DEVICES="8")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert {k: report[k] for k in ("workdir", "step", "dataset")} == {
        "workdir": str(workdir),
        "step": 60,
        "dataset": "fake",
    }
    last = journal(workdir)[-1]
    for split, count in (("train", 2000), ("validation", 500), ("test", 500)):
        numbers = report["splits"][split]
        assert numbers["accuracy"] == last[f"{split}/accuracy"]
        assert numbers["loss"] == pytest.approx(last[f"{split}/loss"], rel=1e-6)
        assert numbers["num_examples"] == count
        assert numbers["num_correct"] == round(numbers["accuracy"] * count)
    assert contents(workdir) == before


def test_a_step_and_a_split_can_be_chosen(workdir):
    result = evaluate("--workdir", workdir, "--step", "20", "--split", "test")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"Step 20 of {workdir}"
    assert lines[1] == "Test Data Eval: [fake]"
    assert len(lines) == 3
    (line,) = (x for x in journal(workdir) if x["step"] == 20 and "test/accuracy" in x)
    assert lines[2].endswith(f"Precision @ 1: {line['test/accuracy']:.4f}")


def test_best_is_by_validation(workdir):
    rated = [
        (x["validation/accuracy"], x["step"]) for x in journal(workdir)[1:] if "test/loss" in x
    ]
    result = evaluate("--workdir", workdir, "--step", "best", "--split", "validation", "--json")
    report = json.loads(result.stdout)
    assert (report["splits"]["validation"]["accuracy"], report["step"]) == max(rated)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--step", "21"], "no checkpoint '21'; choose latest, best or one of 20, 40, 60"),
        (
            ["--step", "newest"],
            "no checkpoint 'newest'; choose latest, best or one of 20, 40, 60",
        ),
    ],
)
def test_what_is_not_there_is_told_in_one_line(workdir, args, message):
    result = evaluate("--workdir", workdir, *args)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert result.stdout == ""

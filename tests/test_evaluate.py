"""`mnist-jax evaluate`, as its users run it."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_jax import restoring
from mnist_jax.data.builtin import make_fake
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


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Three of the ten classes of the test split, in another order."""
    path, names = tmp_path_factory.mktemp("others") / "others.npz", ["7", "1", "3"]
    test = make_fake(0).splits["test"]
    chosen = np.isin(test.label, [7, 1, 3])
    image = test.image[chosen]
    label = [names.index(str(label)) for label in test.label[chosen]]
    arrays = {"x_train": image, "y_train": label, "x_test": image, "y_test": label}
    np.savez(path, class_names=names, **arrays)
    return path


def test_other_data_are_evaluated_by_the_names_of_their_classes(workdir, others, tmp_path):
    args = ("--workdir", workdir, "--step", "60", "--dataset", others, "--split", "test")
    result = evaluate(*args, "--json", "--csv", tmp_path / "rows.csv")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    test, counts = report["splits"]["test"], np.array(report["confusion_matrix"])
    assert (report["dataset"], test["num_examples"]) == (str(others), 150)
    assert counts.sum(axis=1).tolist() == [0, 50, 0, 50, 0, 0, 0, 50, 0, 0]
    assert 0 < counts.trace() == test["num_correct"]
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [row["index"] for row in rows] == [str(i) for i in range(150)]
    assert sum(row["label"] == row["prediction"] for row in rows) == test["num_correct"]
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(test["loss"])
    expected = restoring.restore(workdir, "60").predict(np.load(others)["x_test"])
    for row, prediction in zip(rows, expected, strict=True):
        assert row["prediction"] == prediction["class"]
        assert float(row["probability"]) == pytest.approx(max(prediction["probabilities"]))
    lines = evaluate(*args).stdout.splitlines()[-10:]
    for name, line in zip("0123456789", lines, strict=True):
        right, row, column = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        if row[i := int(name)] and column[i]:
            precision, recall = right[i] / column[i], right[i] / row[i]
            f1 = 2 * precision * recall / (precision + recall or 1)
            rates = [f"{rate:.4f}" for rate in (precision, recall, f1)]
            cells = [name, str(row[i]), str(right[i]), *rates, *map(str, counts[i])]
            assert line.split() == cells


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"class_names": ["0", "a", "1"]}, "class 'a' is none of the model's ['0', '1',"),
        ({"x_train": np.zeros((36, 8, 8), np.uint8)}, "examples are uint8[8, 8], the model's"),
    ],
)
def test_data_that_do_not_suit_are_one_line(workdir, arrays, message, tmp_path):
    image, label = np.full((36, 28, 28), 255, np.uint8), np.arange(36) % 3
    good = {"x_train": image, "y_train": label}
    np.savez(tmp_path / "others.npz", **good | arrays)
    result = evaluate("--workdir", workdir, "--dataset", tmp_path / "others.npz")
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("WARNING") == result.stderr.count("\n") - 1

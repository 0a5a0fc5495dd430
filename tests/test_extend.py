"""The diffs and the script of docs/extend.md work, and touch what the page says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "extend.md").read_text()
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
DIFFS = {
    title: "".join(re.findall(r"```diff\n(.*?)```", text, re.DOTALL))
    for title, text in SECTIONS
    if "```diff" in text
}
ROWS = re.findall(r"^\| \[(.+?)\]\(#.+?\) \| (.+?) \| (\d+) \|$", TEXT, re.MULTILINE)
FIELDS = {
    "Another network": {"model": "residual"},
    "Augmentation": {"augmentation": "random_invert"},
}

# Trains without and with an interruption, and uses the result.
DRIVER = """
import json, sys
import jax, numpy as np
from mnist_jax import restoring
from mnist_jax.configs import default
from mnist_jax.train_loop import train_and_evaluate

config = default.get_config()
config.update(dataset="fake", figures=False, eval_every_steps=3, checkpoint_every_steps=3)
config.update(json.loads(sys.argv[1]), num_train_steps=6, steps_per_call=2)
whole = train_and_evaluate(config, "whole")
config.num_train_steps = 3
train_and_evaluate(config, "resumed")
config.num_train_steps = 6
resumed = train_and_evaluate(config, "resumed")
jax.tree.map(np.testing.assert_array_equal, whole, resumed)
restored = restoring.restore("whole")
jax.tree.map(np.testing.assert_array_equal, restored.variables, whole.variables)
print(sorted(whole.variables), open("whole/metrics.jsonl").readlines()[-1])
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code that a diff may change."""
    for name in ("mnist_jax", "configs", "train.py"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    return tmp_path


def run(code: Path, script: str, *arguments: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(code), "PYTHONPATH": str(code)}
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("title", DIFFS)
def test_a_diff_applies_trains_and_resumes(title: str, code: Path):
    subprocess.run(["git", "apply", "-"], input=DIFFS[title], cwd=code, text=True, check=True)
    output = run(code, DRIVER, json.dumps(FIELDS.get(title, {}))).strip().splitlines()[-1]
    assert ("batch_stats" in output) == (title == "Batch norm")
    assert ('"test/top_3"' in output) == (title == "Another metric")


def test_the_table_counts_what_the_diffs_touch():
    counted = {}
    for title, diff in DIFFS.items():
        files = re.findall(r"^\+\+\+ b/(.+)$", diff, re.MULTILINE)
        added = len(re.findall(r"^\+(?!\+\+)", diff, re.MULTILINE))
        removed = len(re.findall(r"^-(?!--)", diff, re.MULTILINE))
        names = ", ".join(f"`{Path(file).name}`" for file in files)
        counted[title.lower()] = (names, str(added - removed))
    assert {title: (files, lines) for title, files, lines in ROWS if lines != "0"} == counted


def test_the_script_is_short_and_trains(code: Path):
    (script,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    output = run(code, script)
    assert "Training on mine (" in output
    assert "Num examples" in output

"""`--help` comes at once, and agrees with the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_jax.configs import default
from tests.conftest import ROOT

PACKAGE = ["-m", "mnist_jax"]
CHECKPOINT = {"workdir", "step", "member", "model", "task"}
FLAGS = {
    "train": {"config", "workdir", "quiet", "distributed"},
    "evaluate": CHECKPOINT | {"json", "split", "figures", "dataset", "csv"},
    "predict": CHECKPOINT | {"json", "show", "csv"},
    "demo": CHECKPOINT | {"host", "port"},
    "export": CHECKPOINT | {"output"},
    "runs": {"json", "sort"},
    "configs": set(),
}


def show(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("command", "called"),
    [*((name, [*PACKAGE, name]) for name in FLAGS), ("train", ["train.py"])],
    ids=str,
)
def test_it_is_plain_and_imports_no_jax(command: str, called: list[str]):
    ended = show("-X", "importtime", *called, "--help", "--config=missing")
    assert ended.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "mnist_jax.runtime.command" in imported
    assert not imported & {"jax", "tensorflow"}
    examples = re.findall(r"(?:^    |\| )(mnist-jax .*)", ended.stdout, re.MULTILINE)
    assert len(examples) >= 3
    assert all(line.split()[1] == command for line in examples)
    listed = set(re.findall(r"^  --(?:\[no\])?(\w+):", ended.stdout, re.MULTILINE))
    jobs = {"coordinator_address", "num_processes", "process_id", "initialization_timeout"}
    assert listed - jobs == FLAGS[command]
    assert ("config.hidden_sizes = " in ended.stdout) == (command == "train")


def test_it_lists_the_commands():
    page = show(*PACKAGE, "--help")
    assert page.returncode == 0
    rows = re.findall(r"^    (\w+) +[A-Z].*[.]$", page.stdout, re.MULTILINE)
    assert rows == list(FLAGS)
    alone = show(*PACKAGE)
    assert (alone.returncode, alone.stdout) == (2, page.stdout)
    assert alone.stderr == "command: missing; give one of those above\n"
    other = show(*PACKAGE, "fly")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr == f"command: 'fly' is none of {', '.join(FLAGS)}\n"


def test_it_has_each_field_its_value_and_its_comment():
    page = show("train.py", "-h").stdout
    _, _, fields = page.partition("Fields of the config, and their values in ")
    for name, value in default.get_config().items():
        quoted = f'"{value}"' if isinstance(value, str) else repr(value)
        assert f"    config.{name} = {quoted}\n" in fields + "\n"
    for line in Path(default.__file__).read_text().splitlines():
        if line.startswith("    # "):
            assert line in fields

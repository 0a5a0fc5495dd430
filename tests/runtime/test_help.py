"""`--help` comes at once, and agrees with the code."""

import subprocess
import sys

import pytest

from mnist_jax.configs import default
from tests.conftest import ROOT

COMMANDS = {
    "train": ["train.py"],
    "evaluate": ["-m", "mnist_jax.evaluate"],
    "predict": ["-m", "mnist_jax.predict"],
    "demo": ["-m", "mnist_jax.demo"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_plain_and_imports_no_jax(command: str):
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMANDS[command], "--help", "--config=missing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "mnist_jax.runtime.command" in imported
    assert not imported & {"jax", "tensorflow"}
    lines = ended.stdout.splitlines()
    examples = [line for line in lines if line.startswith("    python ")]
    assert len(examples) >= 3
    assert all(" ".join(COMMANDS[command]) in line for line in examples)
    assert "--workdir" in ended.stdout
    assert ("config.hidden_sizes = " in ended.stdout) == (command == "train")


def test_it_has_each_field_its_value_and_its_comment():
    page = subprocess.run(
        [sys.executable, "train.py", "-h"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    _, _, fields = page.partition("Fields of the config, and their values in ")
    for name, value in default.get_config().items():
        quoted = f'"{value}"' if isinstance(value, str) else repr(value)
        assert f"    config.{name} = {quoted}\n" in fields + "\n"
    for line in (ROOT / "configs" / "default.py").read_text().splitlines():
        if line.startswith("    # "):
            assert line in fields


def test_helpfull_is_absls_own_list():
    ended = subprocess.run(
        [sys.executable, "train.py", "--helpfull"], cwd=ROOT, capture_output=True, text=True
    )
    assert "logtostderr" in ended.stdout

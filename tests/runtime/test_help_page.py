"""`--help` fits a screen, comes at once, and agrees with the code."""

import subprocess
import sys

import pytest

from mnist_jax.configs import default
from mnist_jax.runtime import help_page
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
    assert max(map(len, lines)) <= 100
    examples = [line for line in lines if line.startswith("    python ")]
    assert len(examples) >= 3
    assert all(" ".join(COMMANDS[command]) in line for line in examples)
    assert "--workdir" in ended.stdout
    assert ("\n  hidden_sizes  " in ended.stdout) == (command == "train")


def test_it_has_each_field_its_value_and_its_comment():
    page = subprocess.run(
        [sys.executable, "train.py", "-h"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    _, _, table = page.partition("Fields, and their values in configs/default.py:\n")
    config = default.get_config()
    rows = [line.split(maxsplit=1) for line in table.splitlines()]
    values = {row[0]: row[1] for row in rows if row[0] in config}
    assert sorted(values) == sorted(config)
    for name, text in values.items():
        assert text.startswith(str(config[name]) or "''")
    words = " ".join(table.split())
    for line in (ROOT / "configs" / "default.py").read_text().splitlines():
        if line.strip().startswith("# "):
            assert line.strip()[2:] in words


def test_fields_are_read_with_any_comments():
    source = (
        "# Not a field's.\n\nconfig.a = (1, 2)\n# Of b,\n# two lines.\nconfig.b = ''\n"
        "other = 3\nconfig.c = 'x y'  # Not above.\n"
    )
    assert help_page.read_fields(source) == [
        ("a", "(1, 2)", ""),
        ("b", "''", "Of b, two lines."),
        ("c", "x y", ""),
    ]


def test_helpfull_is_absls_own_list():
    ended = subprocess.run(
        [sys.executable, "train.py", "--helpfull"], cwd=ROOT, capture_output=True, text=True
    )
    assert "logtostderr" in ended.stdout

"""The documents: what they link to and name exists.

    python -m tests.test_docs

writes the numbers of lines of the core into them.
"""

import importlib.util
import re
from pathlib import Path

import pytest

from mnist_jax.configs import default
from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def page(request) -> Path:
    return request.param


def test_links_lead_to_files(page: Path):
    for target in re.findall(r"(?:\]\(|(?:href|src)=\")([^)\"#:]+)[)\"]", page.read_text()):
        assert (page.parent / target).exists(), target


def test_tests_that_are_named_exist(page: Path):
    pattern = r"`(?:tests/)?((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`"
    for file, name in re.findall(pattern, page.read_text()):
        assert f"def {name}" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_fields_and_modules_in_commands_exist(page: Path):
    text = page.read_text()
    assert set(re.findall(r"--config\.(\w+)", text)) <= set(default.get_config())
    modules = re.findall(r"python -m ((?:mnist_jax|benchmarks|tests)\.[\w.]+)", text)
    modules += [
        f"mnist_jax.commands.{name}" for name in re.findall(r"mnist-jax ([a-z]+)", text)
    ]
    if page.name != "CHANGELOG.md":  # It also names what there was.
        assert all(map(importlib.util.find_spec, modules)), modules


def write_line_counts() -> None:
    row = re.compile(r"^(\| \[`(\w+\.py)`\].*\| )\d+(?= \|$| \| )", re.MULTILINE)
    for page in (ROOT / "README.md", ROOT / "docs" / "architecture.md"):
        text = page.read_text()
        lines = {
            name: len((ROOT / "mnist_jax" / name).read_text().splitlines())
            for _, name in row.findall(text)
        }
        for name, number in lines.items():
            text = re.sub(rf"(\| \[`{name}`\].*\| )\d+(?= \|)", rf"\g<1>{number}", text)
        total = r"(eight files with |\*\*the core\*\* \| \| \*\*)\d+"
        page.write_text(re.sub(total, rf"\g<1>{sum(lines.values())}", text))


if __name__ == "__main__":
    write_line_counts()

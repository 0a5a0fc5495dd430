"""The listings of docs/mechanics.md are the code.

    python -m tests.test_mechanics

writes the code into the listings.
"""

import ast
import importlib
import inspect
import re
import textwrap
from functools import reduce

import pytest

from tests.conftest import ROOT

PATH = ROOT / "docs" / "mechanics.md"
TEXT = PATH.read_text()
LISTING = re.compile(r"(?<=<!-- )(\S+)\.py: (\S+) -->\n```python\n(.*?)(?=```)", re.DOTALL)


def source_of(file: str, name: str) -> str:
    """Returns the source of a function or method, without its docstring."""
    module = importlib.import_module(file.replace("/", "."))
    function = inspect.unwrap(reduce(getattr, name.split("."), module))
    source = textwrap.dedent(inspect.getsource(function))
    docstring = ast.parse(source).body[0].body[0]
    lines = source.splitlines(keepends=True)
    del lines[docstring.lineno - 1 : docstring.end_lineno]
    if not lines[docstring.lineno - 1].strip():
        del lines[docstring.lineno - 1]
    return "".join(lines)


@pytest.mark.parametrize(
    ("file", "name", "listing"), LISTING.findall(TEXT), ids=lambda value: value[:40]
)
def test_each_listing_is_the_code(file: str, name: str, listing: str):
    assert listing == source_of(file, name)


def test_all_python_is_a_listing():
    assert TEXT.count("```python") == len(LISTING.findall(TEXT)) > 6


def write_listings() -> None:
    def replace(match: re.Match[str]) -> str:
        file, name, _ = match.groups()
        return f"{file}.py: {name} -->\n```python\n{source_of(file, name)}"

    PATH.write_text(LISTING.sub(replace, TEXT))


if __name__ == "__main__":
    write_listings()

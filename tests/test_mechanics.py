"""Holds docs/mechanics.md and the code together."""

import ast
import importlib.util
import inspect
import re
import textwrap
from functools import reduce

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "mechanics.md").read_text()
LISTING = re.compile(r"<!-- (\S+)\.py: (\S+) -->\n```python\n(.*?)```", re.DOTALL)


def code_of(module: str, name: str) -> str:
    """The source of an object, without its docstring."""
    path = module.replace("/", ".")
    source = textwrap.dedent(
        inspect.getsource(
            inspect.unwrap(reduce(getattr, name.split("."), importlib.import_module(path)))
        )
    )
    lines = source.splitlines(keepends=True)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef | ast.ClassDef)
    if ast.get_docstring(definition) is not None:
        docstring = definition.body[0]
        del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "".join(lines)


@pytest.mark.parametrize(
    ("module", "name", "shown"), LISTING.findall(TEXT), ids=lambda value: value[:40]
)
def test_each_listing_is_the_code(module: str, name: str, shown: str):
    assert shown == code_of(module, name)


def test_no_python_is_shown_unchecked():
    assert TEXT.count("```python") == len(LISTING.findall(TEXT)) > 6


def test_what_the_text_points_to_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target


def test_every_command_names_fields_and_modules_that_exist():
    from configs import default

    config = default.get_config()
    fields = re.findall(r"--config\.(\w+)", TEXT)
    assert fields
    assert set(fields) <= set(config)
    for module in re.findall(r"python -m (mnist_jax\.\w+)", TEXT):
        assert importlib.util.find_spec(module), module

"""The imports point one way, as docs/architecture.md lists."""

import ast
import re

from tests.conftest import ROOT

PACKAGE = ROOT / "mnist_jax"


def read_ranks() -> dict[str, int]:
    """Returns the line of each file and room in the list; imports point to larger numbers."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    (layers,) = re.findall(r"<!-- layers -->\n```text\n(.*?)```", text, re.DOTALL)
    lines = enumerate(layers.splitlines())
    return {name: number for number, line in lines for name in line.partition("|")[0].split()}


def test_imports_point_one_way():
    ranks = read_ranks()
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(ranks) == modules - {"__init__", "__pycache__"}
    for path in PACKAGE.rglob("*.py"):
        importer = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnist_jax"):
                names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                for name in names:
                    is_below = name == importer or ranks[importer] < ranks[name]
                    assert is_below, f"{path} imports {name}"

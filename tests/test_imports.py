"""The imports point one way; see docs/architecture.md."""

import ast

from tests.conftest import ROOT

# Each imports only what stands below it, and files of its own room.
LAYERS = [
    ["evaluate", "predict", "demo"],
    ["train_loop", "restoring", "digits"],
    ["reporting"],
    ["run"],
    ["checkpointing", "data"],
    ["eval_step"],
    ["train_step"],
    ["models", "optimizers", "input_pipeline"],
    ["parallel"],
    ["runtime"],
]


def test_imports_point_one_way():
    rank = {name: number for number, names in enumerate(LAYERS) for name in names}
    for path in (ROOT / "mnist_jax").rglob("*.py"):
        importer = path.relative_to(ROOT / "mnist_jax").with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnist_jax"):
                names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                for name in names:
                    is_below = name == importer or rank[importer] < rank[name]
                    assert is_below, f"{path} imports {name}"

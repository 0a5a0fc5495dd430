"""The imports point one way; see docs/architecture.md."""

import ast

from tests.conftest import ROOT

# Each may import what stands below it, and what stands beside it.
LAYERS = [
    ["evaluate", "predict", "demo"],
    ["train_loop", "restoring", "digits"],
    ["run", "reporting"],
    ["checkpointing", "data"],
    ["eval_step"],
    ["train_step"],
    ["models", "optimizers", "input_pipeline"],
    ["parallel"],
    ["runtime"],
]


def test_imports_point_one_way():
    rank = {name: number for number, names in enumerate(LAYERS) for name in names}
    package = ROOT / "mnist_jax"
    for path in package.rglob("*.py"):
        own = path.relative_to(package).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnist_jax"):
                below = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                for name in below:
                    assert rank[own] < rank[name] or own == name or (own, name) == (
                        "reporting", "run",
                    ), f"{path} imports {name}"  # fmt: skip

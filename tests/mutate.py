"""Changes the pure core, one expression at a time; prints the changes that no test notices.

    python -m tests.mutate [MODULE...]

Takes many minutes for a module, whose own tests run after each change, in a copy. Some of what
it prints does not count: sharding on one device, types of variables, other casts.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODULES = "models tasks optimizers augmentation input_pipeline train_step eval_step members"
SWAPS: dict[Any, Any] = {
    **{ast.Add: ast.Sub, ast.Mult: ast.Div, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult},
    **{ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.In: ast.NotIn},
    **{ast.Is: ast.IsNot, ast.And: ast.Or, "min": "max", "minimum": "maximum", "sin": "cos"},
}
SWAPS |= {new: old for old, new in SWAPS.items() if new not in SWAPS}
SKIPPED = {"annotation", "returns", "exc", "strict"}  # Types and messages.


def variants(node: Any) -> Any:
    """Yields what could stand in the place of a node."""
    fields = getattr(node, "__dict__", {})
    match node:
        case _ if type(node) in SWAPS:
            yield SWAPS[type(node)]()
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool() | int() | float() as value):
            yield ast.Constant(not value if isinstance(value, bool) else value + 1)
        case ast.Attribute(attr=name) if name in SWAPS:
            yield ast.Attribute(**fields | {"attr": SWAPS[name]})
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.Call(args=args, keywords=keywords):
            yield from [arg for arg in args[:1] if not isinstance(arg, ast.Starred)]
            for some in ([k for k in keywords if k is not x] for x in keywords):
                yield ast.Call(**fields | {"keywords": some})


def mutants(source: str) -> Any:
    nodes: list[Any] = [ast.parse(source)]
    for parent in nodes:
        for field, value in ast.iter_fields(parent):
            children = value if isinstance(value, list) else [value]
            for node in children if field not in SKIPPED else []:
                nodes += [node] * isinstance(node, ast.AST)
                for new in variants(node):
                    many = [new if child is node else child for child in children]
                    setattr(parent, field, many if value is children else new)
                    yield ast.unparse(nodes[0])
                    setattr(parent, field, value)


def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(".", folder, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
        path, tests = Path(folder) / "mnist_jax" / f"{name}.py", f"tests/test_{name}.py"
        command = ["timeout", "600", sys.executable, "-m", "pytest", "-x", "-n0", tests]
        environment = {**os.environ, "PYTHONPATH": folder}
        source = ast.unparse(ast.parse(path.read_text()))
        for text in (source, *mutants(source)):
            path.write_text(text)
            ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
            if (ended.returncode == 0) != (text == source):
                lines = zip(source.splitlines(), text.splitlines(), strict=False)
                changed = next((x for x in lines if x[0] != x[1]), ("fails", "unchanged"))
                print(f"{name}: {' -> '.join(map(str.strip, changed))}", flush=True)


if __name__ == "__main__":
    for module in sys.argv[1:] or MODULES.split():
        main(module)

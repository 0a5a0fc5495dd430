"""Changes the pure core, one expression at a time; prints the changes that no test notices.

    python -m tests.mutate [MODULE...]

Each change is made in a copy of the checkout, where the module's own tests run until one
fails: many minutes for a module. Of what it prints, some does not count: sharding and
replication, which do nothing on one CPU device, types of variables, and casts to a type that
follows anyway.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODULES = "models tasks optimizers augmentation input_pipeline train_step eval_step members"
SWAPS: dict[Any, Any] = {
    **{ast.Add: ast.Sub, ast.Mult: ast.Div, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult},
    **{ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.In: ast.NotIn},
    **{ast.Is: ast.IsNot, ast.And: ast.Or, "min": "max", "minimum": "maximum", "sin": "cos"},
}
SWAPS |= {new: old for old, new in SWAPS.items() if new not in SWAPS}
SKIPPED = {"annotation", "returns", "exc", "strict"}  # Types and messages.


def edit(node: Any, **fields: object) -> ast.AST:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yields what could stand in the place of a node."""
    match node:
        case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in SWAPS:
            yield edit(node, op=SWAPS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield edit(node, ops=[SWAPS[type(op)]()])
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool() | int() | float() as value):
            yield ast.Constant(not value if isinstance(value, bool) else value + 1)
        case ast.Attribute(attr=name) if name in SWAPS:
            yield edit(node, attr=SWAPS[name])
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.Call(args=args, keywords=keywords):
            yield from [arg for arg in args[:1] if not isinstance(arg, ast.Starred)]
            for keyword in keywords:
                yield edit(node, keywords=[k for k in keywords if k is not keyword])


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Yields a description of each change, and the whole changed source."""
    tree = ast.parse(source)
    nodes: list[Any] = [tree]
    for parent in nodes:
        for field, value in ast.iter_fields(parent):
            children = value if isinstance(value, list) else [value]
            for node in children if field not in SKIPPED else []:
                nodes += [node] * isinstance(node, ast.AST)
                for new in variants(node):
                    many = [new if child is node else child for child in children]
                    setattr(parent, field, many if value is children else new)
                    yield (
                        f"{node.lineno}: {ast.unparse(node)} -> {ast.unparse(new)}",
                        ast.unparse(tree),
                    )
                    setattr(parent, field, value)


def main(modules: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
        for name in modules:
            path, tests = Path(folder) / "mnist_jax" / f"{name}.py", f"tests/test_{name}.py"
            pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", tests]
            source, environment = path.read_text(), {**os.environ, "PYTHONPATH": folder}
            for change, text in [("nothing", source), *mutants(source)]:
                path.write_text(text)
                command = ["timeout", "600", *pytest]
                ended = subprocess.run(
                    command, cwd=folder, env=environment, capture_output=True
                )
                if (ended.returncode == 0) != (change == "nothing"):
                    print(f"{name}.py:{change}", flush=True)
            path.write_text(source)


if __name__ == "__main__":
    main(sys.argv[1:] or MODULES.split())

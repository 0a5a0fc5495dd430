"""Changes the pure core, one expression at a time; prints the changes that no test notices.

    python -m tests.mutate [MODULE...]

Each change is made in a copy of the checkout, where the module's own tests run, the quickest
first, until one of them fails. No part of the suite: a module takes many minutes.
"""

import ast
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import mnist_jax.train_loop  # noqa: F401 - imports the libraries once, for all forks.

ROOT = Path(__file__).parent.parent
MODULES = "models tasks optimizers augmentation input_pipeline train_step eval_step members"
SWAPS: dict = {
    ast.Add: ast.Sub, ast.Mult: ast.Div, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.In: ast.NotIn, ast.Is: ast.IsNot,
    ast.And: ast.Or, "min": "max", "any": "all", "minimum": "maximum", "sin": "cos",
}  # fmt: skip
SWAPS = {new: old for old, new in SWAPS.items()} | SWAPS
# Types, messages, and a keyword that only guards.
SKIPPED = ("annotation", "returns", "exc", "strict")


def edit(node: ast.AST, **fields: object) -> ast.AST:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def variants(node: ast.AST, names: set[str]) -> Iterator[ast.AST]:
    """Yields what could stand in the place of a node; `names` are imported ones."""
    match node:
        case ast.BinOp(op=ast.BitOr()):
            yield from (node.left, node.right)
        case ast.BoolOp(op=op, values=values):
            yield from (edit(node, op=SWAPS[type(op)]()), *values)
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield edit(node, op=SWAPS[type(op)]())
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield edit(node, ops=[*ops[:i], SWAPS[type(op)](), *ops[i + 1 :]])
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool() | int() | float() as value):
            yield ast.Constant(not value if isinstance(value, bool) else value + 1)
        case ast.Name(id=name) if name in SWAPS:
            yield ast.Name(SWAPS[name])
        case ast.Attribute(attr=name) if name in SWAPS:
            yield edit(node, attr=SWAPS[name])
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.If(test=test):
            yield edit(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.AugAssign() | ast.Delete() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Slice(lower=lower, upper=upper):
            yield from [edit(node, lower=None)] * bool(lower)
            yield from [edit(node, upper=None)] * bool(upper)
        case ast.Call(func=func, args=args, keywords=keywords):
            yield from [arg for arg in args[:1] if not isinstance(arg, ast.Starred)]
            if isinstance(func, ast.Attribute) and ast.unparse(func.value) not in names:
                yield func.value  # The object, instead of its method's result.
            for keyword in keywords:
                if keyword.arg not in SKIPPED:
                    yield edit(node, keywords=[k for k in keywords if k is not keyword])


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yields the line and the description of each change, and the whole changed source."""
    tree = ast.parse(source)
    imports = [x for x in ast.walk(tree) if isinstance(x, ast.Import | ast.ImportFrom)]
    names = {"jax.random", "jax.tree", "jax.nn", "jax.lax", "np.linalg", "np.random"}
    names |= {alias.asname or alias.name for x in imports for alias in x.names}
    nodes: list[ast.AST] = [tree]
    for parent in nodes:
        for field, value in ast.iter_fields(parent):
            children = value if isinstance(value, list) else [value]
            for place, node in enumerate(children):
                if not isinstance(node, ast.AST) or {field, getattr(node, "arg", "")} & {
                    *SKIPPED
                }:
                    continue
                if isinstance(parent, ast.UnaryOp) and isinstance(node, ast.Constant):
                    continue  # -2 is as wrong as 1 in the place of -1, but NumPy takes it.
                if not isinstance(node, ast.JoinedStr):
                    nodes.append(node)
                for new in variants(node, names):
                    many = [*children[:place], new, *children[place + 1 :]]
                    setattr(parent, field, many if value is children else new)
                    text = ast.unparse(tree)
                    setattr(parent, field, value)
                    old, new = (ast.unparse(x).splitlines()[0] for x in (node, new))
                    yield node.lineno, f"{old} -> {new}", text


def run_tests(folder: Path, tests: list[str]) -> None:
    """Ends this process, a fork, with pytest's exit status."""
    for module in [x for x in sys.modules if x.split(".")[0] in ("mnist_jax", "tests")]:
        del sys.modules[module]
    os.chdir(folder)
    os.environ["PYTHONPATH"] = sys.path[0] = str(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.exit(pytest.main(["-x", "-n0", "-pno:cacheprovider", "--junitxml=times.xml", *tests]))


def main(modules: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{temporary}/compiled")
        folder = Path(temporary) / "checkout"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for name in modules:
            path, file = folder / "mnist_jax" / f"{name}.py", f"tests/test_{name}.py"
            source, limit, tests = path.read_text(), 3600.0, [file]
            for line, change, text in [
                (0, "nothing", source),
                (0, "nothing", source),
                *mutants(source),
            ]:
                path.write_text(text)
                start = time.monotonic()
                process = multiprocessing.get_context("fork").Process(
                    target=run_tests, args=(folder, tests)
                )
                process.start()
                process.join(limit)
                process.kill()
                process.join()
                t = time.monotonic() - start
                print(name, line, change, process.exitcode, round(t, 1), flush=True)
                if not line:
                    limit = 60 + 5 * t
                    cases = ElementTree.parse(folder / "times.xml").iter("testcase")
                    cases = sorted(cases, key=lambda case: float(case.get("time")))
                    tests = [f"{file}::{case.get('name')}" for case in cases]
            path.write_text(source)


if __name__ == "__main__":
    main(sys.argv[1:] or MODULES.split())

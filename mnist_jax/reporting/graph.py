"""Converts the jaxpr of any function to a GraphDef, for TensorBoard's Graphs tab.

    graph.write_graph(logdir, model.apply, variables, images)

In the tab, a box is a Flax module or a `jax.named_scope`, an ellipse is an equation of the
jaxpr, and an edge is a value with its shape. The operations of reverse-mode differentiation
are in the box `gradients`, in an inner box for each module. TensorFlow is not needed.
"""

import dataclasses
import inspect
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.graph.metadata import PLUGIN_NAME_RUN_METADATA_WITH_GRAPH
from tensorboard.summary.writer.record_writer import RecordWriter

from mnist_jax.runtime.files import replacing

Scope = tuple[str, ...]  # The names of nested boxes, or of the modules in a name stack.

# The ops of a model's variables, by Flax's name of their collection.
_VARIABLE_OPS = {"params": "Parameter", "batch_stats": "Variable"}
_GRADIENTS = "gradients"


def write_graph(
    logdir: str | Path, function: Callable[..., Any], *example_args: Any, tag: str = "graph"
) -> None:
    """Writes the graph of `create_graph_def` to an event file of its own, whole or not at all.

    Args:
      logdir: Created if it is missing.
      function: See `create_graph_def`.
      *example_args: See `create_graph_def`.
      tag: Names the graph in the tab's list, and the file, which replaces an earlier one.
    """
    graph_def = create_graph_def(function, *example_args)
    metadata = RunMetadata(function_graphs=[{"pre_optimization_graph": graph_def}])
    plugin = {"plugin_name": PLUGIN_NAME_RUN_METADATA_WITH_GRAPH, "content": b"1"}
    content = metadata.SerializeToString(deterministic=True)
    tensor = {"dtype": "DT_STRING", "tensor_shape": {}, "string_val": [content]}
    value = {"tag": tag, "metadata": {"plugin_data": plugin}, "tensor": tensor}
    logdir = Path(logdir)
    logdir.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads the files of a folder in the order of their names, and never returns
    # to an earlier one. So this name sorts before those of the files that still grow.
    with replacing(logdir / f"events.out.tfevents.0.graph.{tag}") as file:
        for fields in ({"file_version": "brain.Event:2"}, {"summary": {"value": [value]}}):
            event = Event(wall_time=time.time(), **fields)
            RecordWriter(file).write(event.SerializeToString())


def create_graph_def(function: Callable[..., Any], *example_args: Any) -> GraphDef:
    """Traces a function and returns its graph.

    Each leaf of the arguments is a node: below a key, attribute or argument `params` a
    `Parameter` in the box of its module, below `batch_stats` a `Variable`, else a
    `Placeholder`. Numbers and captured arrays are `Const` nodes next to their first user.

    Each equation is a node, named by its primitive. Calls such as `jit`, `remat` and
    `custom_vjp` are replaced by their contents; `scan`, `while` and `cond` are nodes. The root
    module has no box.

    Args:
      function: A pure function, for example a Flax model's `apply` or a training step. Bind
        arguments that are not arrays with `functools.partial`.
      *example_args: Pytrees of arrays, or of `jax.ShapeDtypeStruct`.

    Returns:
      Nodes in the order of the computation, with the attributes `dtype` and
      `_output_shapes`, which TensorBoard shows on the edges.
    """
    closed = jax.make_jaxpr(function)(*example_args)
    inputs = _name_inputs(function, example_args)
    builder = _Builder(closed.jaxpr, inputs)
    args: list[_Value] = [
        builder.add(op, path, [], [var.aval])
        for (path, op), var in zip(inputs, closed.jaxpr.invars, strict=True)
    ]
    builder.inline(closed, args, ())
    return builder.graph_def


@dataclasses.dataclass(eq=False)
class _Constant:
    """A value known while tracing. Its node is added next to its first user."""

    aval: Any
    value: Any
    node: str = ""


# An input of an equation: the output of a node, as GraphDef names it, or a constant.
_Value = str | _Constant


class _Builder:
    """Builds a GraphDef; the name stack of an equation determines the scope of its node."""

    def __init__(self, jaxpr: Jaxpr, inputs: Sequence[tuple[Scope, str]]):
        self.graph_def = GraphDef(versions={"producer": 22})  # Any number is valid.
        self._captured: dict[int, _Constant] = {}  # By the identity of the array.
        outermost = {path[0] for path, op in inputs if op != "Placeholder" and path[:-1]}
        # In a name stack, a root module looks like a named scope. But the outermost modules
        # in the paths of the parameters are directly below it.
        stacks = set(_all_name_stacks(jaxpr, ()))
        self._roots = {
            outer
            for stack in stacks
            for outer, inner in itertools.pairwise(_without_methods(stack))
            if inner in outermost and outer not in outermost | {_GRADIENTS}
        }
        # No node may have the name of a scope.
        scopes = {path[:-1] for path, _ in inputs} | set(map(self._to_scope, stacks))
        self._used_names = {"/".join(s[:end]) for s in scopes for end in range(1, len(s) + 1)}

    def _to_scope(self, stack: Scope) -> Scope:
        """Removes the root module."""
        return tuple(name for name in _without_methods(stack) if name not in self._roots)

    def _unique_name(self, path: Scope) -> str:
        unique = name = "/".join(path)
        numbers = itertools.count(1)
        while unique in self._used_names:
            unique = f"{name}_{next(numbers)}"
        self._used_names.add(unique)
        return unique

    def add(
        self,
        op: str,
        path: Scope,
        inputs: list[_Value],
        avals: list[Any],
        attributes: Mapping[str, Any] | None = None,
    ) -> str:
        """Adds a node with an output for each of `avals`, and returns its name."""
        names = [x if isinstance(x, str) else self._add_const(x, path[:-1]) for x in inputs]
        node = self.graph_def.node.add(name=self._unique_name(path), op=op, input=names)
        node.attr["dtype"].s = ", ".join(str(aval.dtype) for aval in avals).encode()
        shapes = node.attr["_output_shapes"].list.shape
        for aval in avals:
            shapes.add(dim=[{"size": size} for size in aval.shape])
        for key, value in (attributes or {}).items():
            if isinstance(value, int | float | str | tuple):
                node.attr[key].s = _describe(value).encode()
        return node.name

    def _add_const(self, const: _Constant, scope: Scope) -> str:
        if not const.node:
            attributes = {"value": _describe(const.value)}
            const.node = self.add("Const", (*scope, "const"), [], [const.aval], attributes)
        return const.node

    def inline(self, closed: ClosedJaxpr, args: list[_Value], stack: Scope) -> list[_Value]:
        """Adds the equations of a jaxpr below a name stack, and returns its outputs."""
        jaxpr = closed.jaxpr
        values: dict[Any, _Value] = dict(zip(jaxpr.invars, args, strict=True))
        for var, const in zip(jaxpr.constvars, closed.consts, strict=True):
            values[var] = self._captured.setdefault(id(const), _Constant(var.aval, const))

        def read(atom: Any) -> _Value:
            return _Constant(atom.aval, atom.val) if isinstance(atom, Literal) else values[atom]

        for eqn in _used_equations(jaxpr):
            outputs = self._add_equation(eqn, [read(atom) for atom in eqn.invars], stack)
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _add_equation(self, eqn: JaxprEqn, args: list[_Value], stack: Scope) -> list[_Value]:
        stack += _name_stack(eqn)
        inner = _inner_jaxprs(eqn)
        in_avals = [atom.aval for atom in eqn.invars]
        out_avals = [var.aval for var in eqn.outvars]
        shapes = [(jaxpr.in_avals, jaxpr.out_avals) for jaxpr in inner]
        if shapes == [(in_avals, out_avals)] and eqn.primitive.name != "scan":
            return self.inline(inner[0], args, stack)  # A call, like that of `jit`.
        path = (*self._to_scope(stack), _sanitize(eqn.primitive.name))
        node = self.add(eqn.primitive.name, path, args, out_avals, eqn.params)
        return [f"{node}:{number}" if number else node for number in range(len(out_avals))]


def _name_inputs(
    function: Callable[..., Any], example_args: Sequence[Any]
) -> list[tuple[Scope, str]]:
    """Returns the path and the op of the node of each leaf of the arguments."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind < p.VAR_POSITIONAL]
    rest = [p.name for p in parameters if p.kind == p.VAR_POSITIONAL]
    names += [f"{name}_{number}" for name in rest for number in range(len(example_args))]
    arguments = [{name: arg} for name, arg in zip(names, example_args, strict=False)]
    inputs = []
    for (_, *keys), _ in jax.tree_util.tree_leaves_with_path(arguments):
        path = tuple(_sanitize(jax.tree_util.keystr((key,), simple=True)) for key in keys)
        start = next((i for i, name in enumerate(path[:-1], 1) if name in _VARIABLE_OPS), 0)
        op = _VARIABLE_OPS[path[start - 1]] if start else "Placeholder"
        inputs.append((path[start:], op))
    return inputs


def _used_equations(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Returns the equations that the outputs depend on: XLA deletes the others."""
    used, equations = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or used.intersection(map(id, eqn.outvars)):
            used.update(map(id, eqn.invars))
            equations.append(eqn)
    return equations[::-1]


def _name_stack(eqn: JaxprEqn) -> Scope:
    """Splits a name stack: `transpose(jvp(MLP))/hidden1` is `gradients`, `MLP`, `hidden1`."""
    stack = str(eqn.source_info.name_stack).replace("transpose(", f"{_GRADIENTS}/")
    parts = re.sub(r"\w+\(|\)", "", stack).split("/")
    return tuple(_sanitize(part) for part in parts if part)


def _all_name_stacks(jaxpr: Jaxpr, outer: Scope) -> Iterator[Scope]:
    """Yields the name stack of every equation, also of those in inner jaxprs."""
    for eqn in jaxpr.eqns:
        stack = outer + _name_stack(eqn)
        yield stack
        for inner in _inner_jaxprs(eqn):
            yield from _all_name_stacks(inner.jaxpr, stack)


def _without_methods(stack: Scope) -> Scope:
    """Removes `module.method`, which Flax's lifted transformations add next to `module`.

    Also removes the scope of an einsum with an ellipsis, for example `...ij,jk->...ik`.
    """
    return tuple(
        name
        for at, name in enumerate(stack)
        if "." not in name or name.split(".")[0] not in ("", *stack[max(at - 1, 0) : at + 2])
    )


def _sanitize(name: str) -> str:
    """Returns a valid TensorFlow name; with any other, the tab remains empty."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip("_-") or "unnamed"


def _inner_jaxprs(eqn: JaxprEqn) -> list[ClosedJaxpr]:
    return [
        value if isinstance(value, ClosedJaxpr) else ClosedJaxpr(value, ())
        for value in jax.tree.leaves(eqn.params)
        if isinstance(value, Jaxpr | ClosedJaxpr)
    ]


def _describe(value: Any) -> str:
    # A large captured array would be copied from the device only to be printed.
    if getattr(value, "size", 1) > 1:
        return f"array of shape {list(value.shape)}"
    return str(value)[:200]

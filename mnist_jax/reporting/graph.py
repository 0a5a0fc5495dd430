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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.graph.metadata import PLUGIN_NAME_RUN_METADATA_WITH_GRAPH

from mnist_jax.reporting.tensorboard import create_summary, write_once

Scope = tuple[str, ...]  # The names of nested boxes.

# The ops of a model's variables, by Flax's name of their collection.
_VARIABLE_OPS = {"params": "Parameter", "batch_stats": "Variable"}
_GRADIENTS = "gradients"


def write_graph(
    logdir: str | Path, function: Callable[..., Any], *example_args: Any, tag: str = "graph"
) -> None:
    """Writes the graph of `create_graph_def` to an event file of its own.

    Args:
      logdir: Created if it is missing.
      function: See `create_graph_def`.
      *example_args: See `create_graph_def`.
      tag: Names the graph in the tab's list.
    """
    graph_def = create_graph_def(function, *example_args)
    metadata = RunMetadata(function_graphs=[{"pre_optimization_graph": graph_def}])
    plugin = {"plugin_name": PLUGIN_NAME_RUN_METADATA_WITH_GRAPH, "content": b"1"}
    content = metadata.SerializeToString(deterministic=True)
    write_once(logdir, create_summary(tag, {"plugin_data": plugin}, content))


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
    inputs = _create_inputs(function, example_args, closed.in_avals)
    tracer = _Tracer(nodes=[*inputs])
    tracer.inline(closed, [(node, 0) for node in inputs], "")
    # In a name stack, a root module looks like a named scope. But the outermost modules in the
    # paths of the parameters are directly below it.
    outermost = {x.path[0] for x in inputs if x.op != "Placeholder" and x.path[1:]}
    roots = {
        outer
        for scope in tracer.scopes
        for outer, inner in itertools.pairwise(scope)
        if inner in outermost and outer not in outermost | {_GRADIENTS}
    }
    graph_def = GraphDef(versions={"producer": 22})  # Any number is valid.
    names: dict[str, _Node] = {}
    for node in tracer.nodes:
        node.name = name = "/".join(part for part in node.path if part not in roots)
        numbers = itertools.count(1)
        while names.setdefault(node.name, node) is not node:
            node.name = f"{name}_{next(numbers)}"
        sources = [f"{x.name}:{number}" if number else x.name for x, number in node.inputs]
        attributes = graph_def.node.add(name=node.name, op=node.op, input=sources).attr
        attributes["dtype"].s = ", ".join(str(aval.dtype) for aval in node.avals).encode()
        shapes = attributes["_output_shapes"].list.shape
        for aval in node.avals:
            shapes.add(dim=[{"size": size} for size in aval.shape])
        for key, value in node.attributes.items():
            if isinstance(value, int | float | str | tuple):
                attributes[key].s = str(value)[:200].encode()
    return graph_def


@dataclasses.dataclass(eq=False)
class _Node:
    op: str
    path: Scope  # Its scope and its name; empty for a constant that nobody uses yet.
    inputs: Sequence["_Output"]
    avals: Sequence[Any]  # Of its outputs.
    attributes: Mapping[str, Any]
    name: str = ""  # In the GraphDef.


_Output = tuple[_Node, int]


@dataclasses.dataclass
class _Tracer:
    """Collects the nodes of equations; a constant is put before its first user."""

    nodes: list[_Node]
    captured: dict[int, _Output] = dataclasses.field(default_factory=dict)  # By `id(array)`.
    # Of equations, also inner ones.
    scopes: set[Scope] = dataclasses.field(default_factory=set)

    def inline(self, closed: ClosedJaxpr, args: list[_Output], stack: str) -> list[_Output]:
        """Adds the equations of a jaxpr below a name stack, and returns its outputs."""
        jaxpr = closed.jaxpr
        values: dict[Any, _Output] = dict(zip(jaxpr.invars, args, strict=True))
        for var, const in zip(jaxpr.constvars, closed.consts, strict=True):
            values[var] = self.captured.setdefault(id(const), _create_const(var.aval, const))

        def read(atom: Any) -> _Output:
            is_literal = isinstance(atom, Literal)
            return _create_const(atom.aval, atom.val) if is_literal else values[atom]

        for eqn in _used_equations(jaxpr):
            outputs = self._add(eqn, [read(atom) for atom in eqn.invars], stack)
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _add(self, eqn: JaxprEqn, args: list[_Output], stack: str) -> list[_Output]:
        """Adds an equation, or of a call its contents, and returns its outputs."""
        stack = f"{stack}/{eqn.source_info.name_stack}"
        inner = [
            value if isinstance(value, ClosedJaxpr) else ClosedJaxpr(value, ())
            for value in jax.tree.leaves(eqn.params)
            if isinstance(value, Jaxpr | ClosedJaxpr)
        ]
        in_avals = [atom.aval for atom in eqn.invars]
        out_avals = [var.aval for var in eqn.outvars]
        shapes = [(jaxpr.in_avals, jaxpr.out_avals) for jaxpr in inner]
        op = eqn.primitive.name
        if shapes == [(in_avals, out_avals)] and op != "scan":
            return self.inline(inner[0], args, stack)  # A call, like that of `jit`.
        scope = _split(stack)
        stacks = (e.source_info.name_stack for jaxpr in inner for e in jaxpr.jaxpr.eqns)
        self.scopes |= {scope, *(_split(f"{stack}/{below}") for below in stacks)}
        for const, _ in args:
            if not const.path:
                const.path = (*scope, "const")
                self.nodes.append(const)
        node = _Node(op, (*scope, _sanitize(op)), args, out_avals, eqn.params)
        self.nodes.append(node)
        return [(node, number) for number in range(len(out_avals))]


def _create_const(aval: Any, value: Any) -> _Output:
    # A large captured array would be copied from the device only to be printed.
    text = str(value) if aval.size == 1 else f"array of shape {[*aval.shape]}"
    return _Node("Const", (), [], [aval], {"value": text}), 0


def _create_inputs(
    function: Callable[..., Any], example_args: Sequence[Any], avals: Sequence[Any]
) -> list[_Node]:
    """Returns a node for each leaf of the arguments."""
    arguments = inspect.signature(function).bind(*example_args).arguments.items()
    leaves = jax.tree_util.tree_leaves_with_path([{name: arg} for name, arg in arguments])
    nodes = []
    for ((_, *keys), _), aval in zip(leaves, avals, strict=True):
        path = tuple(_sanitize(jax.tree_util.keystr((key,), simple=True)) for key in keys)
        start = next((i for i, name in enumerate(path[:-1], 1) if name in _VARIABLE_OPS), 0)
        op = _VARIABLE_OPS[path[start - 1]] if start else "Placeholder"
        nodes.append(_Node(op, path[start:], [], [aval], {}))
    return nodes


def _used_equations(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Returns the equations that the outputs depend on: XLA deletes the others."""
    used, equations = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or used.intersection(map(id, eqn.outvars)):
            used.update(map(id, eqn.invars))
            equations.append(eqn)
    return equations[::-1]


def _split(stack: str) -> Scope:
    """Splits a name stack: `transpose(jvp(MLP))/hidden1` is `gradients`, `MLP`, `hidden1`.

    `module.method`, which Flax's lifted transformations add next to `module`, is the module.
    The scope of an einsum, for example `ij,jk->ik`, is left out.
    """
    stack = re.sub(r"\w+\(|\)", "", stack.replace("transpose(", f"{_GRADIENTS}/"))
    stack = re.sub(r"\b(\w+)(/\1)?\.(?!\d)\w+(/\1\b)?", r"\1", stack)
    return tuple(_sanitize(part) for part in stack.split("/") if part and "->" not in part)


def _sanitize(name: str) -> str:
    """Returns a valid TensorFlow name; with any other, the tab remains empty."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip("_-") or "unnamed"

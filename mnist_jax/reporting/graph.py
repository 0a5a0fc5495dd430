"""The jaxpr of any function as TensorBoard's GraphDef: what the Graphs tab shows.

    graph.write_graph(logdir, model.apply, variables, images)

A box of the picture is a Flax module or a `jax.named_scope`, an ellipse an equation of the
jaxpr, an edge a value with its shape. What reverse-mode differentiation adds stands in the
box `gradients`, under the module it belongs to. TensorFlow is not needed.
"""

import inspect
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.graph.metadata import PLUGIN_NAME_RUN_METADATA_WITH_GRAPH
from tensorboard.summary.writer.record_writer import RecordWriter

Scope = tuple[str, ...]

# Flax's names for the collections that belong to modules.
_PARAMETERS = "params"
_VARIABLES = (_PARAMETERS, "batch_stats")
_GRADIENTS = "gradients"
_MAX_ATTRIBUTE_CHARACTERS = 200


def write_graph(
    logdir: str | Path, function: Callable[..., Any], *example_args: Any, tag: str = "graph"
) -> Path:
    """Writes a function's graph, to be chosen by its tag in TensorBoard's Graphs tab.

    The file is written whole or not at all, and replaces that of the same tag.

    Args:
      logdir: Created where it is missing.
      function: See `create_graph_def`.
      *example_args: Likewise.
      tag: Letters, digits, `_`, `-` and `.`.

    Returns:
      The event file.

    Raises:
      ValueError: The tag holds another character.
    """
    if not re.fullmatch(r"[\w.-]+", tag):
        raise ValueError(f"tag: {tag!r} may hold letters, digits, '_', '-' and '.' only")
    metadata = RunMetadata()
    metadata.function_graphs.add().pre_optimization_graph.CopyFrom(
        create_graph_def(function, *example_args)
    )
    now = time.time()
    event = Event(wall_time=now, step=0)
    value = event.summary.value.add(tag=tag)
    value.metadata.plugin_data.plugin_name = PLUGIN_NAME_RUN_METADATA_WITH_GRAPH
    value.metadata.plugin_data.content = b"1"  # The version of what follows.
    value.tensor.dtype = 7  # DT_STRING
    value.tensor.tensor_shape.SetInParent()  # A scalar.
    value.tensor.string_val.append(metadata.SerializeToString(deterministic=True))

    logdir = Path(logdir)
    logdir.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads a folder's files in the order of their names, and does not come
    # back to one that it has left: this one goes before those that grow, named by the time.
    path = logdir / f"events.out.tfevents.0.graph.{tag}"
    aside = logdir / f".graph.{tag}"
    with aside.open("wb") as file:
        for each in (Event(wall_time=now, file_version="brain.Event:2"), event):
            RecordWriter(file).write(each.SerializeToString(deterministic=True))
    return aside.replace(path)


def create_graph_def(function: Callable[..., Any], *example_args: Any) -> GraphDef:
    """Traces a function and returns its graph.

    A leaf of the arguments below a key, attribute or argument `params` becomes a
    `Parameter` node within its module (`batch_stats`: a `Variable`), any other a
    `Placeholder` named by its path; numbers and captured arrays become `Const` nodes
    beside their user; every equation becomes a node named and typed by its primitive.
    Calls (`jit`, `remat`, `custom_jvp`, `custom_vjp`) are seen through; `scan`, `while`
    and `cond` become boxes that hold their bodies, with `Carry`, `Slice`, `Stack` and
    `Merge` nodes where values enter and leave. The root module's own box is left out.

    Args:
      function: A pure function, like a Flax model's `apply`, a loss or a training step.
        Bind what is not an array beforehand (`functools.partial`).
      *example_args: Pytrees of arrays, or of `jax.ShapeDtypeStruct`.

    Returns:
      Nodes in the order of the computation. Each has the attribute `_output_shapes`, from
      which TensorBoard labels the edges, and `dtype`.
    """
    closed = jax.make_jaxpr(function)(*example_args)
    inputs = _name_inputs(function, example_args)
    modules = {path[:-1] for path, op in inputs if op != "Placeholder" and len(path) > 1}
    scopes = set(_scopes_of(closed.jaxpr, ()))
    builder = _Builder(scopes, modules)
    builder.reserve(scopes | {path[:-1] for path, _ in inputs})
    args: list[_Value] = [
        builder.add(op, path[:-1], path[-1], [], [var.aval])[0]
        for (path, op), var in zip(inputs, closed.jaxpr.invars, strict=True)
    ]
    builder.inline(closed, args, _Place(()))
    return builder.graph_def


class _Constant(NamedTuple):
    """A value known while tracing; it becomes a node where it is used."""

    aval: Any
    text: str


# Of what an equation reads: the output of a node, as GraphDef names it, or a constant.
_Value = str | _Constant


class _Place(NamedTuple):
    """Where the equations of a jaxpr go.

    Attributes:
      stack: The scope of the equation that holds the jaxpr, the root module included.
      box_at: Where a loop or a branch stands: what is no module below it goes
      box: here.
    """

    stack: Scope
    box_at: Scope = ()
    box: Scope = ()


class _Builder:
    """Grows a GraphDef."""

    def __init__(self, scopes: Iterable[Scope], modules: Iterable[Scope]):
        """Starts an empty graph.

        Args:
          scopes: Those of all equations.
          modules: The paths, from the root module, of the modules that have parameters.
        """
        self.graph_def = GraphDef()
        self.graph_def.versions.producer = 22  # As TensorFlow 1 wrote; any will do.
        self._modules = set(itertools.chain.from_iterable(modules))
        self._outermost = {path[0] for path in modules}
        # Flax opens a scope for the root module too, and only parameters' paths tell it
        # from a named scope: they begin below it.
        self._roots = {
            outer
            for scope in scopes
            for outer, inner in itertools.pairwise(_without_lifts(scope))
            if inner in self._outermost and outer not in self._outermost | {_GRADIENTS}
        }
        self._taken: set[str] = set()
        self._captured: dict[int, _Constant] = {}  # By the array's identity.
        self._constants: dict[int, tuple[_Constant, str]] = {}

    def reserve(self, scopes: Iterable[Scope]) -> None:
        """Keeps the names of the scopes from being given to nodes."""
        for scope in map(self._shown, scopes):
            self._taken |= {"/".join(scope[:end]) for end in range(1, len(scope) + 1)}

    def _shown(self, stack: Scope) -> Scope:
        """Returns the stack without the root module, and with one `gradients` at most.

        A loop and its body both say `gradients`.
        """
        scope: Scope = ()
        for name in _without_lifts(stack):
            inside = not self._outermost.isdisjoint(scope)
            if (name in self._roots and not inside) or (name == _GRADIENTS and name in scope):
                continue
            scope += (name,)
        return scope

    def _scope(self, place: _Place) -> Scope:
        """Returns where an equation with the place's stack goes."""
        scope = self._shown(place.stack)
        if not place.box or scope[: len(place.box_at)] != place.box_at:
            return scope
        below = scope[len(place.box_at) :]
        owner = next((name for name in below if name != _GRADIENTS), None)
        return scope if owner in self._modules else place.box + below

    def _unique(self, scope: Scope, name: str) -> str:
        full = "/".join((*scope, name))
        names = itertools.chain([full], (f"{full}_{number}" for number in itertools.count(1)))
        unique = next(name for name in names if name not in self._taken)
        self._taken.add(unique)
        return unique

    def add(
        self,
        op: str,
        scope: Scope,
        name: str,
        inputs: Sequence[_Value],
        avals: Sequence[Any],
        attributes: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Adds a node, and returns its outputs, one for each of `avals`."""
        inputs = [self._reference(value, scope) for value in inputs]
        node = self.graph_def.node.add(name=self._unique(scope, name), op=op, input=inputs)
        shapes = node.attr["_output_shapes"].list
        for aval in avals:
            shape = shapes.shape.add()
            for size in _shape(aval):
                shape.dim.add(size=size if isinstance(size, int) else -1)
        dtypes = ", ".join(str(getattr(aval, "dtype", aval)) for aval in avals)
        for key, text in {"dtype": dtypes, **(attributes or {})}.items():
            node.attr[key].s = text.encode()
        return [node.name, *(f"{node.name}:{number}" for number in range(1, len(avals)))]

    def _reference(self, value: _Value, scope: Scope) -> str:
        if isinstance(value, str):
            return value
        # By identity: each literal of an equation is a node of its own. It is kept beside
        # its node, or its address might be given to another.
        if id(value) not in self._constants:
            text = {"value": value.text}
            node = self.add("Const", scope, "const", [], [value.aval], text)[0]
            self._constants[id(value)] = value, node
        return self._constants[id(value)][1]

    def inline(
        self, jaxpr: Jaxpr | ClosedJaxpr, args: Sequence[_Value], place: _Place
    ) -> list[_Value]:
        """Adds a jaxpr's equations, and returns what it returns."""
        jaxpr, consts = _opened(jaxpr)
        env: dict[Any, _Value] = dict(zip(jaxpr.invars, args, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            constant = _Constant(var.aval, _brief(const))
            env[var] = self._captured.setdefault(id(const), constant)

        def read(atom: Any) -> _Value:
            if isinstance(atom, Literal):
                return _Constant(atom.aval, _brief(atom.val))
            return env[atom]

        for eqn in jaxpr.eqns:
            outputs = self._add_equation(eqn, [read(atom) for atom in eqn.invars], place)
            env |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _add_equation(
        self, eqn: JaxprEqn, args: list[_Value], place: _Place
    ) -> Sequence[_Value]:
        stack = place.stack + _scope_of(eqn)
        place = place._replace(stack=stack)
        called = _called_jaxpr(eqn)
        if called is not None:
            return self.inline(called, args, place)
        name, avals = eqn.primitive.name, [var.aval for var in eqn.outvars]
        if name in _BOXES:
            return _BOXES[name](self, eqn, args, place)
        scope = self._scope(place)
        return self.add(name, scope, _sanitised(name), args, avals, _attributes(eqn))

    def _loop(self, body: Jaxpr | ClosedJaxpr, name: str, place: _Place) -> _Place:
        """Opens a loop's box: in the module, if any, that all of its body belongs to."""
        stacks = [_without_lifts(_scope_of(eqn)) for eqn in _opened(body)[0].eqns]
        common = itertools.takewhile(self._modules.__contains__, _common_prefix(stacks))
        owner = place._replace(stack=place.stack + tuple(common))
        return self._box(name, owner)._replace(stack=place.stack)

    def _box(self, name: str, place: _Place) -> _Place:
        box = self._unique(self._scope(place), name)
        return _Place(place.stack, self._shown(place.stack), tuple(box.split("/")))

    def add_scan(self, eqn: JaxprEqn, args: list[_Value], place: _Place) -> Sequence[_Value]:
        """Adds one iteration: constants, carry and slices in, carry and stacks out."""
        body = eqn.params["jaxpr"]
        place = self._loop(body, "scan", place)
        inside, outside = _opened(body)[0], eqn
        # Which is which follows from the shapes, in every version of JAX: what is sliced
        # or stacked has a dimension more outside.
        num_carry = sum(
            _shape(inner.aval) == _shape(outer.aval)
            for inner, outer in zip(inside.outvars, outside.outvars, strict=True)
        )
        num_slices = sum(
            _shape(inner.aval) != _shape(outer.aval)
            for inner, outer in zip(inside.invars, outside.invars, strict=True)
        )
        num_consts = len(args) - num_carry - num_slices
        ops = ["Carry"] * num_carry + ["Slice"] * num_slices
        ports = [
            self._port(op, place, value, var.aval)
            for op, value, var in zip(
                ops, args[num_consts:], inside.invars[num_consts:], strict=True
            )
        ]
        results = self.inline(body, [*args[:num_consts], *ports], place)
        stacks = [
            self._port("Stack", place, value, var.aval)
            for value, var in zip(results[num_carry:], outside.outvars[num_carry:], strict=True)
        ]
        return [*results[:num_carry], *stacks]

    def add_while(self, eqn: JaxprEqn, args: list[_Value], place: _Place) -> Sequence[_Value]:
        """Adds one iteration, and what decides on the next."""
        cond, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        place = self._loop(body, "while", place)
        carry = [
            self._port("Carry", place, value, var.aval)
            for value, var in zip(args[num_cond + num_body :], eqn.outvars, strict=True)
        ]
        condition = place._replace(box=(*place.box, "condition"))
        goes_on = self.inline(cond, [*args[:num_cond], *carry], condition)
        self.add("LoopCondition", place.box, "goes_on", goes_on, [])
        return self.inline(body, [*args[num_cond : num_cond + num_body], *carry], place)

    def add_cond(self, eqn: JaxprEqn, args: list[_Value], place: _Place) -> Sequence[_Value]:
        """Adds every branch; the first argument tells which one counts."""
        place = self._box("cond", place)
        results = [
            self.inline(branch, args[1:], place._replace(box=(*place.box, f"branch_{number}")))
            for number, branch in enumerate(eqn.params["branches"])
        ]
        return [
            self.add("Merge", place.box, "merge", [args[0], *values], [var.aval])[0]
            for values, var in zip(zip(*results, strict=True), eqn.outvars, strict=True)
        ]

    def _port(self, op: str, place: _Place, value: _Value, aval: Any) -> str:
        return self.add(op, place.box, op.lower(), [value], [aval])[0]


_BOXES = {"scan": _Builder.add_scan, "while": _Builder.add_while, "cond": _Builder.add_cond}


def _name_inputs(
    function: Callable[..., Any], example_args: Sequence[Any]
) -> list[tuple[Scope, str]]:
    """Returns path and op of the node for each leaf of the arguments."""
    names = _argument_names(function, len(example_args))
    named = []
    for name, arg in zip(names, example_args, strict=True):
        for keys, _ in jax.tree_util.tree_leaves_with_path(arg):
            parts = (jax.tree_util.keystr((key,), simple=True) for key in keys)
            path = (name, *map(_sanitised, parts))
            collection = next((part for part in path[:-1] if part in _VARIABLES), None)
            if collection is None:
                named.append((path, "Placeholder"))
            else:
                op = "Parameter" if collection == _PARAMETERS else "Variable"
                named.append((path[path.index(collection) + 1 :], op))
    return named


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # Some callables have none.
        parameters = []
    names = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "arg")
    names += [f"{rest}_{number}" for number in range(count - len(names))]
    return [_sanitised(name) for name in names[:count]]


def _scopes_of(jaxpr: Jaxpr, stack: Scope) -> Iterator[Scope]:
    """Yields the scope of every equation, in the jaxprs inside it too."""
    for eqn in jaxpr.eqns:
        scope = stack + _scope_of(eqn)
        yield scope
        for inner in _inner_jaxprs(eqn):
            yield from _scopes_of(_opened(inner)[0], scope)


def _scope_of(eqn: JaxprEqn) -> Scope:
    """Reads an equation's name stack, like `transpose(jvp(MLP))/hidden1`.

    Transformations are dropped, but for `transpose`: what it wraps is the backward pass.
    """
    stack = str(eqn.source_info.name_stack).replace("transpose(", f"{_GRADIENTS}/")
    parts = re.sub(r"\w+\(|\)", "", stack).split("/")
    return tuple(_sanitised(part) for part in parts if part)


def _without_lifts(stack: Scope) -> Scope:
    """Drops what Flax's lifted functions add: `Model.fn` in `Model`, or around it."""
    around = zip(("", *stack), stack, (*stack[1:], ""), strict=False)
    return tuple(
        name
        for outer, name, inner in around
        if "." not in name or name.partition(".")[0] not in (outer, inner)
    )


def _sanitised(name: str) -> str:
    """Returns a name that TensorFlow would accept; others leave the tab blank."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip("_-") or "unnamed"


def _called_jaxpr(eqn: JaxprEqn) -> Jaxpr | ClosedJaxpr | None:
    """Returns the jaxpr that the equation does nothing but call, whatever its primitive."""
    inner = _inner_jaxprs(eqn)
    if len(inner) != 1 or eqn.primitive.name in _BOXES:
        return None
    jaxpr = _opened(inner[0])[0]
    outside = [[atom.aval for atom in atoms] for atoms in (eqn.invars, eqn.outvars)]
    inside = [[atom.aval for atom in atoms] for atoms in (jaxpr.invars, jaxpr.outvars)]
    return inner[0] if _signatures(outside) == _signatures(inside) else None


def _signatures(avals: Iterable[Iterable[Any]]) -> list[list[Any]]:
    return [[(getattr(a, "shape", None), getattr(a, "dtype", None)) for a in x] for x in avals]


def _inner_jaxprs(eqn: JaxprEqn) -> list[Jaxpr | ClosedJaxpr]:
    values = itertools.chain.from_iterable(
        value if isinstance(value, list | tuple) else [value] for value in eqn.params.values()
    )
    return [value for value in values if isinstance(value, Jaxpr | ClosedJaxpr)]


def _opened(jaxpr: Any) -> tuple[Jaxpr, Sequence[Any]]:
    # Untyped, since newer versions of JAX have one class for both.
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _shape(aval: Any) -> tuple[Any, ...]:
    return getattr(aval, "shape", ())  # Tokens of effects have none.


def _common_prefix(scopes: Sequence[Scope]) -> Scope:
    columns = itertools.takewhile(
        lambda column: len(set(column)) == 1, zip(*scopes, strict=False)
    )
    return tuple(column[0] for column in columns)


def _attributes(eqn: JaxprEqn) -> dict[str, str]:
    """Returns the parameters that are plain data, for the node's info card."""
    plain = (bool, int, float, str, tuple)
    return {k: _brief(v) for k, v in eqn.params.items() if isinstance(v, plain)}


def _brief(value: Any) -> str:
    # A large captured array is not worth a copy to the host and its printing.
    if getattr(value, "size", 1) > 1:
        return f"array of shape {list(value.shape)}"
    return str(value)[:_MAX_ATTRIBUTE_CHARACTERS]

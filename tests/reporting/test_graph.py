import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef

from mnist_jax import train_loop
from mnist_jax.reporting import description, graph
from tests.states import batch, create_state

# --- Models other than the trainer's.


class CNN(nn.Module):
    @nn.compact
    def __call__(self, images, train: bool):
        x = nn.relu(nn.Conv(8, (3, 3), name="conv")(images))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10, name="head")(x.reshape(x.shape[0], -1))


class Cell(nn.Module):
    @nn.compact
    def __call__(self, carry, x):
        y = nn.tanh(nn.Dense(4, name="input")(x) + nn.Dense(4, name="recurrent")(carry))
        return y, y


class RNN(nn.Module):
    """Flax's scan, over time."""

    @nn.compact
    def __call__(self, sequences):
        scan = nn.scan(
            Cell,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        carry = jnp.zeros((sequences.shape[0], 4))
        carry, _ = scan(name="cell")(carry, sequences)
        return nn.remat(nn.Dense)(2, name="head")(carry)


@jax.custom_jvp
def clip(x):
    return jnp.clip(x, -1, 1)


@clip.defjvp
def _clip_straight_through(primals, tangents):
    return clip(*primals), tangents[0]


class Clipped(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x)
        with jax.named_scope("clip"):
            x = clip(x)
        return nn.Dense(2, name="second")(x)


def loss_and_gradients(model: nn.Module, **kwargs) -> Callable:
    def loss(variables, x):
        return model.apply(variables, x, **kwargs).mean()

    return jax.value_and_grad(loss)


def convert(function, *args) -> dict[str, NodeDef]:
    graph_def = graph.create_graph_def(function, *args)
    check(graph_def)
    return {node.name: node for node in graph_def.node}


def init(model: nn.Module, *args, **kwargs):
    return jax.eval_shape(functools.partial(model.init, **kwargs), jax.random.key(0), *args)


# --- What is true of every graph.


def check(graph_def: GraphDef) -> None:
    seen: dict[str, NodeDef] = {}
    for node in graph_def.node:
        assert re.fullmatch(r"[A-Za-z0-9.][\w.-]*(/[A-Za-z0-9.][\w.-]*)*", node.name)
        assert node.name not in seen
        assert node.op
        for name, _, number in (reference.partition(":") for reference in node.input):
            assert name in seen, f"{node.name} reads {name}, which is not before it"
            assert int(number or 0) < len(shapes_of(seen[name]))
        seen[node.name] = node


def shapes_of(node: NodeDef) -> list[tuple[int, ...]]:
    shapes = node.attr["_output_shapes"].list.shape
    return [tuple(dim.size for dim in shape.dim) for shape in shapes]


def scopes_of(nodes) -> set[str]:
    parts = [name.split("/") for name in nodes]
    return {"/".join(p[:end]) for p in parts for end in range(1, len(p))}


def ops_below(nodes: dict[str, NodeDef], scope: str) -> list[str]:
    """The sorted ops of the nodes in a scope, without those in its inner scopes."""
    return sorted(node.op for name, node in nodes.items() if name.rpartition("/")[0] == scope)


def reads(nodes: dict[str, NodeDef], name: str, *, wanted: str) -> bool:
    """Whether a node depends on another, directly or indirectly."""
    todo, done = [name], set()
    while todo:
        name = todo.pop().partition(":")[0]
        if name not in done:
            done.add(name)
            todo += nodes[name].input
    return wanted in done


# --- The trainer's graphs.


@pytest.fixture(scope="module")
def mlp_graphs() -> dict[str, dict[str, NodeDef]]:
    from mnist_jax.configs import default

    config = default.get_config()
    state = jax.eval_shape(lambda: create_state(config))
    graphs = description.graphs(state, batch(config.batch_size))
    return {tag: convert(function, *args) for tag, (function, *args) in graphs.items()}


def test_forward_pass_is_three_boxes(mlp_graphs):
    nodes = mlp_graphs["forward"]
    assert scopes_of(nodes) == {"hidden1", "hidden2", "softmax_linear"}
    assert shapes_of(nodes["images"]) == [(100, 28, 28)]
    assert shapes_of(nodes["hidden1/dot_general"]) == [(100, 128)]
    assert shapes_of(nodes["hidden2/dot_general"]) == [(100, 32)]
    assert shapes_of(nodes["softmax_linear/add"]) == [(100, 10)]
    assert ops_below(nodes, "hidden1") == sorted(
        ["Parameter", "Parameter", "Const", "dot_general", "reshape", "add", "max"]
    )
    assert nodes["hidden1/kernel"].op == "Parameter"
    assert nodes["hidden1/const"].attr["value"].s == b"0.0"
    assert nodes["images"].op == "Placeholder"
    assert reads(nodes, "softmax_linear/add", wanted="images")


def test_training_step_has_the_tutorials_boxes(mlp_graphs):
    nodes = mlp_graphs["train_step"]
    layers = {"hidden1", "hidden2", "softmax_linear"}
    computed = {*layers, "loss", "gradients", "optimizer"}
    backward = {f"gradients/{name}" for name in layers | {"loss"}}
    assert scopes_of(nodes) == computed | backward | {"batch", "state"}
    assert ops_below(nodes, "optimizer") == ["Const"] * 7 + ["add"] * 7 + ["mul"] * 6
    assert shapes_of(nodes["gradients/hidden1/transpose"]) == [(784, 128)]
    assert reads(nodes, "gradients/hidden1/transpose", wanted="batch/label")
    assert not reads(nodes, "hidden1/dot_general", wanted="batch/label")


def test_optimizer_has_a_box(fake_config: ConfigDict):
    fake_config.optimizer = "adam"
    state = jax.eval_shape(lambda: create_state(fake_config))
    function, *args = description.graphs(state, batch(5))["train_step"]
    nodes = convert(function, *args)
    assert "optimizer" in scopes_of(nodes)
    # The moments are neither parameters nor in the layers' boxes.
    assert nodes["state/opt_state/0/0/mu/hidden1/kernel"].op == "Placeholder"


# --- Any model.


def test_cnn():
    model, images = CNN(), jnp.zeros((2, 8, 8, 1))
    variables = init(model, images, train=False)
    forward = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    nodes = convert(forward, variables, images)
    assert scopes_of(nodes) == {"args", "conv", "norm", "head"}
    assert {n: nodes[n].op for n in nodes if nodes[n].op in ("Parameter", "Variable")} == {
        "conv/kernel": "Parameter",
        "conv/bias": "Parameter",
        "norm/scale": "Parameter",
        "norm/bias": "Parameter",
        "norm/mean": "Variable",
        "norm/var": "Variable",
        "head/kernel": "Parameter",
        "head/bias": "Parameter",
    }
    assert shapes_of(nodes["conv/conv_general_dilated"]) == [(2, 8, 8, 8)]
    assert b"strides" not in nodes["conv/conv_general_dilated"].attr["window_strides"].s
    assert nodes["conv/conv_general_dilated"].attr["window_strides"].s == b"(1, 1)"

    nodes = convert(loss_and_gradients(model, train=False), variables, images)
    boxes = {name for name in scopes_of(nodes) if "/" not in name}
    assert boxes == {"conv", "norm", "head", "gradients"}


def test_scan_of_a_module_is_one_node_beside_its_parameters():
    model, sequences = RNN(), jnp.zeros((2, 5, 3))
    variables = init(model, sequences)
    nodes = convert(model.apply, variables, sequences)
    assert scopes_of(nodes) == {"args", "cell", "cell/input", "cell/recurrent", "head"}
    assert shapes_of(nodes["scan"]) == [(2, 4), (5, 2, 4)]  # The carry, and what is stacked.
    assert {"cell/input/kernel", "cell/recurrent/kernel"} <= set(nodes["scan"].input)
    assert reads(nodes, "head/add", wanted="scan")
    assert shapes_of(nodes["head/add"]) == [(2, 2)]  # remat is replaced by its contents.

    nodes = convert(loss_and_gradients(model), variables, sequences)
    assert "gradients/scan" in nodes
    assert {s.split("/")[0] for s in scopes_of(nodes)} == {"cell", "head", "gradients"}


def test_lifted_functions_leave_no_box_of_their_own():
    sequences = jnp.zeros((2, 5, 3))
    lstm = nn.RNN(nn.OptimizedLSTMCell(4))
    nodes = convert(lstm.apply, init(lstm, sequences), sequences)
    gates = {f"cell/{side}{gate}" for side in "hi" for gate in "ifgo"}
    assert scopes_of(nodes) == {"args", "cell"} | gates


def test_attention():
    class Reader(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(50, 16, name="embed")(tokens)
            x = x + nn.MultiHeadDotProductAttention(4, name="attention")(
                nn.LayerNorm(name="norm")(x)
            )
            return nn.Dense(50, name="logits")(x)

    model, tokens = Reader(), jnp.zeros((2, 7), jnp.int32)
    nodes = convert(model.apply, init(model, tokens), tokens)
    parts = {f"attention/{name}" for name in ("query", "key", "value", "out")}
    assert scopes_of(nodes) == {"args", "embed", "norm", "attention", "logits"} | parts
    assert reads(nodes, "logits/add", wanted="attention/query/kernel")


def test_custom_jvp():
    model, x = Clipped(), jnp.zeros((2, 3))
    variables = init(model, x)
    nodes = convert(model.apply, variables, x)
    assert scopes_of(nodes) == {"args", "first", "clip", "second"}
    assert {"min", "max"} <= set(ops_below(nodes, "clip"))
    assert not {node.op for node in nodes.values()} & {"custom_jvp_call", "jit"}

    nodes = convert(loss_and_gradients(model), variables, x)
    assert not [name for name in nodes if name.startswith("gradients/clip/m")]
    assert {"gradients/first", "gradients/second"} <= scopes_of(nodes)


def test_another_method_of_a_module_is_in_its_box():
    class Coder(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def encode(self, x):
            return self.layer(x) * 2

    class Model(nn.Module):
        def setup(self):
            self.coder = Coder()

        def __call__(self, x):
            return self.coder.encode(x)

    model, x = Model(), jnp.zeros((2, 4))
    nodes = convert(model.apply, init(model, x), x)
    assert scopes_of(nodes) == {"args", "coder", "coder/layer"}


def test_numbers_after_a_dot_are_no_method():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="fc.1")(nn.Dense(4, name="fc.0")(x))

    model, x = Model(), jnp.zeros((2, 4))
    nodes = convert(model.apply, init(model, x), x)
    assert scopes_of(nodes) == {"args", "fc.0", "fc.1"}


# --- Any function.


def test_loops_and_branches_are_nodes():
    def function(x):
        with jax.named_scope("outer"):
            carry = jax.lax.while_loop(lambda c: (c < 9).all(), lambda c: c + x, x)
            # Its body has the shapes of a call: it takes and returns the carry alone.
            carry, _ = jax.lax.scan(lambda c, _: (c * 2, None), carry, length=4)
            return jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, carry)

    nodes = convert(function, jnp.ones(2))
    assert scopes_of(nodes) == {"outer"}
    assert nodes["outer/scan"].input == ["outer/while"]
    assert "outer/scan" in nodes["outer/cond"].input
    assert not any(node.op in ("mul", "sin", "cos") for node in nodes.values())


def test_a_captured_array_is_one_node_for_all_its_users():
    captured = jnp.arange(3.0)
    nodes = convert(lambda x: jax.jit(lambda x: x * captured)(x) + captured, captured)
    (const,) = [node for node in nodes.values() if node.op == "Const"]
    assert const.attr["value"].s == b"array of shape [3]"
    assert nodes["mul"].input == ["x", const.name]
    assert nodes["add"].input == ["mul", const.name]


def test_an_equation_without_outputs():
    def function(x):
        jax.debug.print("{x}", x=x)
        return jnp.sin(x)

    assert convert(function, jnp.zeros(5))["sin"].input == ["x"]


def test_every_output_of_an_equation_can_be_read():
    nodes = convert(lambda x: sum(jax.lax.top_k(x, 2)), jnp.zeros(5))
    assert shapes_of(nodes["top_k"]) == [(2,), (2,)]
    assert [r for n in nodes.values() for r in n.input if r.startswith("top_k:")] == ["top_k:1"]


def test_names_that_tensorboard_cannot_parse_are_replaced():
    def function(_x, y):
        with jax.named_scope("/a//ü (b)"), jax.named_scope("y"):
            return jnp.sin(_x) + y["c/d"]

    nodes = convert(function, 1.0, {"c/d": jnp.zeros((), jnp.bfloat16)})
    assert {node.op for node in nodes.values()} >= {"sin", "add", "Placeholder"}


def test_functions_without_equations_or_arguments():
    assert list(convert(lambda x: x, 3)) == ["x"]
    assert convert(lambda: jnp.float32(3)) == {}


def test_example_arguments_may_be_shapes():
    nodes = convert(jnp.sin, jax.ShapeDtypeStruct((4,), np.float32))
    assert shapes_of(nodes["sin"]) == [(4,)]
    assert nodes["sin"].attr["dtype"].s == b"float32"


# --- The file.


def read_graphs(logdir: Path) -> list[tuple[str, int, GraphDef]]:
    found = []
    for path in sorted(logdir.glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "graph_run_metadata_graph":
                    metadata = RunMetadata.FromString(value.tensor.string_val[0])
                    (functions,) = metadata.function_graphs
                    found.append((value.tag, event.step, functions.pre_optimization_graph))
    return found


def test_write_graph_writes_a_file_for_each_tag(tmp_path: Path):
    graph.write_graph(tmp_path / "new", jnp.cos, 1.0, tag="one")
    graph.write_graph(tmp_path / "new", jnp.tan, 1.0, tag="two")
    (one, two) = read_graphs(tmp_path / "new")
    assert [one[:2], two[:2]] == [("one", 0), ("two", 0)]
    assert one[2] == graph.create_graph_def(jnp.cos, 1.0)
    assert two[2] == graph.create_graph_def(jnp.tan, 1.0)


def test_a_run_writes_its_graphs_once_however_often_it_resumes(
    fake_config: ConfigDict, tmp_path: Path
):
    fake_config.num_train_steps = 20
    train_loop.train_and_evaluate(fake_config, tmp_path)
    first = read_graphs(tmp_path)
    assert [(tag, step) for tag, step, _ in first] == [("forward", 0), ("train_step", 0)]
    fake_config.num_train_steps = 40
    train_loop.train_and_evaluate(fake_config, tmp_path)
    assert read_graphs(tmp_path) == first


def test_tensorflow_is_not_needed():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import jax.numpy as jnp; from mnist_jax.reporting import graph\n"
        "print(len(graph.create_graph_def(jnp.sin, 1.0).node))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2\n"

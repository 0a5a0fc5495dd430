"""What TensorBoard's HParams, Text and Graphs tabs show of a run."""

from collections.abc import Mapping
from typing import Any

import jax
from clu.parameter_overview import get_parameter_overview

from mnist_jax.members import select
from mnist_jax.reporting.tensorboard import EventWriter
from mnist_jax.run import Run
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import environment, memory, terminal
from mnist_jax.runtime.errors import first_line
from mnist_jax.train_step import TrainState, Variables, train_step


def write(run: Run, state: TrainState, table: str, events: EventWriter) -> None:
    """Writes the config, the versions, the table of the `parameters`, and the graphs."""
    config = run.config
    texts = {
        "parameters": f"```\n{table}\n```",
        "config": _table(config),
        "environment": _table(environment.describe()),
    }
    trial = "/".join(run.workdir.parts[-2:])
    events.write_hparams(config_lib.hyperparameters(config), trial)
    events.call("write_texts", 0, texts)
    functions = graphs(select(state, 0, config.num_seeds), run.batch)
    events.submit(lambda: _write_graphs(run, functions))


def parameters(state: TrainState, num_members: int) -> str:
    """Returns a table of a member's parameters, and how much memory the state needs."""
    params = select(state.params, 0, num_members)
    table = get_parameter_overview(params, include_stats=False)
    need = memory.num_bytes((state, params)) / 1e6  # The gradients are as large as `params`.
    return f"{table}\nAt least {need:,.1f} MB of memory with gradients and optimizer"


def graphs(state: TrainState, batch: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Returns by tag the functions that the Graphs tab shows, each with its arguments.

    `batch` is that of a step, or its `jax.ShapeDtypeStruct`s.
    """
    state = jax.eval_shape(lambda: state)

    def forward(variables: Variables, images: jax.Array) -> jax.Array:
        return state.apply_fn(variables, images, train=False)

    return {
        "forward": (forward, state.variables, batch["image"]),
        "train_step": (train_step, state, batch),
    }


def _write_graphs(run: Run, functions: Mapping[str, tuple[Any, ...]]) -> None:
    from mnist_jax.reporting import graph

    try:
        for tag, (function, *arguments) in functions.items():
            graph.write_graph(run.workdir, function, *arguments, tag=tag)
    except OSError:
        raise
    except Exception as error:  # Of any type: it must not end the training.
        terminal.print_warning(f"WARNING: no graph for TensorBoard: {first_line(error)}")


def _table(values: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | `{value!r}` |" for name, value in values.items())
    return f"| name | value |\n|---|---|\n{rows}"

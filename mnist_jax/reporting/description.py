"""What TensorBoard's HParams, Text and Graphs tabs show of a run."""

from collections.abc import Mapping
from typing import Any

import jax
from clu.parameter_overview import get_parameter_overview

from mnist_jax.members import select
from mnist_jax.reporting.tensorboard import EventWriter
from mnist_jax.run import Run
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import environment, terminal
from mnist_jax.runtime.errors import first_line
from mnist_jax.train_step import TrainState, Variables, train_step


def write(run: Run, state: TrainState, events: EventWriter) -> None:
    """Writes the config, the versions, a table of the parameters, and the graphs."""
    config, state = run.config, select(state, 0, run.config.num_seeds)
    parameters = get_parameter_overview(state.params, include_stats=False)
    texts = {
        "parameters": f"```\n{parameters}\n```",
        "config": _table(config),
        "environment": _table(environment.describe()),
    }
    trial = "/".join(run.workdir.parts[-2:])
    events.write_hparams(config_lib.hyperparameters(config), trial)
    events.call("write_texts", 0, texts)
    functions = graphs(state, run.batch)
    events.submit(lambda: _write_graphs(run, functions))


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

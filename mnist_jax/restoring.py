"""A trained model, or only its variables, from a workdir alone."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from mnist_jax import members
from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.data import own_files
from mnist_jax.data.datasets import Dataset
from mnist_jax.data.load import load_dataset
from mnist_jax.models import MODELS, create_model
from mnist_jax.parallel import job
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import own_code, run_folder, terminal
from mnist_jax.runtime.errors import (
    CommandError,
    DamagedCheckpointError,
    UserError,
    first_line,
    refusing,
)
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.runtime.saved_arrays import leaves_by_name
from mnist_jax.tasks import TASKS, Task, create_task
from mnist_jax.train_step import ApplyFn, TrainState, Variables


class TrainedModel(NamedTuple):
    """A model as of one checkpoint, whose variables are on the device.

    With `num_members` above 1 it is a committee, and the variables are those of all members.
    """

    workdir: Path
    manifest: Manifest
    model: nn.Module
    task: Task
    variables: Variables
    num_members: int = 1

    @property
    def step(self) -> int:
        """Completed updates."""
        return self.manifest.step

    @property
    def config(self) -> ConfigDict:
        """Of the run."""
        return self.manifest.config

    @property
    def input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one example."""
        return jax.ShapeDtypeStruct(tuple(self.manifest.image_shape), self.manifest.image_dtype)

    def outputs(self, inputs: jax.Array | np.ndarray) -> jax.Array:
        """Returns the outputs, such as logits, of inputs `[n, *input.shape]`."""
        return _apply(self.variables, inputs, self.model.apply, self.task, self.num_members)

    def predict(self, inputs: np.ndarray) -> list[dict[str, Any]]:
        """Returns the prediction of each of `[n, *input.shape]`; see `Task.describe`."""
        outputs = np.asarray(self.outputs(inputs))
        return self.task.describe(outputs, self.manifest.class_names)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _apply(
    variables: Variables, inputs: jax.Array, apply_fn: ApplyFn, task: Task, num_members: int
) -> jax.Array:
    if num_members == 1:
        return apply_fn(variables, inputs, train=False)
    return task.combine(members.apply_each(apply_fn, variables, inputs))


def restore(
    workdir: str | Path,
    step: str = "latest",
    *,
    model: nn.Module | str | None = None,
    task: Task | str | None = None,
    member: int | None = None,
) -> TrainedModel:
    """Restores the model of a checkpoint; changes nothing on disk.

    Args:
      workdir: The run's folder.
      step: "latest", "best" (by the task's best metric on the validation split), or a number.
      model: The one that was given to `train_and_evaluate`, if one was; or `FILE.py:NAME`.
      task: Likewise.
      member: Of a run of several seeds; counted from 0. None: their committee.

    Raises:
      UserError: There is no such checkpoint or member, or it does not fit this code.
      DamagedCheckpointError: The checkpoint is damaged.
    """
    workdir = run_folder.locate(workdir)
    checkpoints = Checkpoints(workdir)
    steps = checkpoints.steps()
    if not steps:
        levels = ("*/checkpoints", "*/*/checkpoints")  # runs/mine, runs/<config>/<time>
        runs = sorted(str(path.parent) for level in levels for path in workdir.glob(level))
        hint = f"choose one of {', '.join(runs[-5:])}" if runs else "choose another"
        raise UserError(f"workdir: {workdir} contains no checkpoints; {hint}")
    choices = f"choose latest, best or one of {', '.join(map(str, steps))}"
    try:
        if step == "best":
            number = best_step(map(checkpoints.manifest, steps))
        else:
            number = {"latest": steps[-1], **{str(n): n for n in steps}}.get(step)
        if number is None:
            raise UserError(f"step: {workdir} has no checkpoint {step!r}; {choices}")
        manifest = checkpoints.manifest(number)
        num_members = manifest.config.num_seeds
        if member is not None and member not in range(num_members):
            problem = f"{workdir} has no member {member}"
            raise UserError(f"member: {problem}; choose one from 0 to {num_members - 1}")
        num_outputs = manifest.num_outputs or len(manifest.class_names)
        create = functools.partial(create_model, num_outputs=num_outputs)
        module: nn.Module = _find_code(manifest, "model", model, MODELS, create)
        learned: Task = _find_code(manifest, "task", task, TASKS, create_task)
        init = functools.partial(module.init, train=False)
        if num_members > 1:
            init = jax.vmap(init, axis_size=num_members, in_axes=None)
        example = jax.ShapeDtypeStruct((1, *manifest.image_shape), manifest.image_dtype)
        collections = jax.eval_shape(init, jax.random.key(0), example)
        target = {"params": collections.pop("params"), "collections": collections}
        restored = checkpoints.restore(number, target)
    except CommandError as error:
        if checkpoints.steps() != steps:  # A training run deleted one meanwhile.
            return restore(workdir, step, model=model, task=task, member=member)
        if isinstance(error, DamagedCheckpointError):
            raise DamagedCheckpointError(f"{error}; {choices}") from error
        raise
    variables = {"params": restored["params"], **restored["collections"]}
    if member is not None:
        variables, num_members = members.select(variables, member, num_members), 1
    return TrainedModel(workdir, manifest, module, learned, variables, num_members)


def _find_code(
    manifest: Manifest, kind: str, given: Any, table: Mapping[str, Any], create: Any
) -> Any:
    """Returns the run's model or task: the user's, who must give it again, or our own.

    Code is never loaded because a workdir says so.
    """
    recorded = manifest.own_code.get(kind, {})
    config = manifest.config
    if given is None and (recorded or config[kind] not in table):
        name = recorded.get("name", config[kind])
        advice = f"add --{kind} {name}, or in Python restore(..., {kind}=...)"
        raise UserError(f"{kind}: the run has its own, {name}; {advice}")
    spec = given if isinstance(given, str) else ""
    if given is None or spec:
        given = create(ConfigDict({**config, kind: spec or config[kind]}), is_saved=True)
    advice = "its fields must be Python values or tuples"
    with refusing(f"{kind}: {type(given).__name__}", advice, TypeError):
        hash(given)
    if recorded:
        own_code.warn_if_changed(kind, own_code.describe(given, spec), recorded)
    return given


def load_run_dataset(model: TrainedModel, dataset: str | None = None) -> Dataset:
    """Loads the dataset that the model was trained on, or another one with the model's classes.

    `dataset` is the name or path of the other one, or of the same one, if it moved.

    Raises:
      UserError: It is not available, has changed, or does not suit the model.
    """
    config = ConfigDict(model.config).unlock()
    if dataset:
        config.update(dataset=dataset, image_size=())
        own = config_lib.own_path(dataset)
        if own and own.is_dir() and own_files.find_splits(own):
            config.image_size = tuple(model.input.shape[:2])  # As `predict` scales them.
        config_lib.validate(config)
    for field in ("data_dir", "manual_dir"):
        if not Path(config[field]).is_dir():
            config[field] = ""  # The run was made on another machine: use this one's default.
    loaded = load_dataset(config.lock(), may_fall_back=False)
    if not dataset or loaded.digest == model.manifest.data_digest:
        loaded.check_digest(model.manifest.data_digest)
        return loaded
    names = list(model.manifest.class_names)
    with refusing(f"dataset: {loaded.name}", "choose another", ValueError):
        if loaded.input != model.input:
            forms = [f"{x.dtype}{[*x.shape]}" for x in (loaded.input, model.input)]
            raise ValueError("examples are {}, the model's {}".format(*forms))
        if unknown := sorted({*loaded.class_names}.difference(names)):
            raise ValueError(f"class {unknown[0]!r} is none of the model's {names}")
        label = loaded.examples.label
        if loaded.class_names:
            label = np.array([*map(names.index, loaded.class_names)], np.int32)[label]
        examples = loaded.examples._replace(label=label)
        adopted = dataclasses.replace(loaded, class_names=tuple(names), examples=examples)
        model.task.check(adopted)
    return adopted


def read_start(
    config: ConfigDict, state: TrainState
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what a run starts from: the best checkpoint of the run `config.init_from`.

    That of the newest step if none is rated. A variable of a single run is also the beginning
    of each member. `state` has the shapes of a single member.

    Returns:
      `Manifest.init_from`, and the variables by name, for those of the state that it has.

    Raises:
      UserError: There is no checkpoint, it is damaged, or nothing of it suits the state.
    """
    source = Checkpoints(folder := Path(config.init_from))
    try:
        manifests = [source.manifest(step) for step in source.steps()]
        if not manifests:
            raise UserError(f"{folder} contains no checkpoints")
        step = best_step(manifests) or manifests[-1].step
        found = source.read_variables(step)
    except CommandError as error:
        raise UserError(f"config.init_from: {first_line(error)}; choose another run") from error
    leaves = leaves_by_name({"params": state.params, "collections": state.collections})
    stack = (config.num_seeds,) if config.num_seeds > 1 else ()
    taken, skipped = {}, []
    for name in sorted(leaves.keys() | found.keys()):
        here, there = (x[name].shape if name in x else None for x in (leaves, found))
        if here is not None and there in (here, (*stack, *here)):
            taken[name] = np.broadcast_to(found[name], (*stack, *here))
        else:
            skipped.append(f"{name} {there or '-'} there, {here or '-'} here")
    if not taken:
        raise UserError(f"config.init_from: {folder}: nothing suits ({'; '.join(skipped)})")
    if skipped and job.is_first_process():
        terminal.print_warning(f"WARNING: config.init_from: skipped {'; '.join(skipped)}")
    record = {"workdir": str(folder), "run_id": run_folder.read_id(folder), "step": step}
    return record | {"skipped": skipped}, taken

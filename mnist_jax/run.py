"""Opens a run: resolves the config, loads the data, claims the folder, finds checkpoints."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from mnist_jax import input_pipeline, restoring
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.data import tfds_source
from mnist_jax.data.datasets import Dataset
from mnist_jax.data.load import load_dataset
from mnist_jax.input_pipeline import Source
from mnist_jax.models import MODELS, create_model
from mnist_jax.parallel import job, sharding
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import environment, memory, own_code, run_folder
from mnist_jax.runtime.errors import UserError, refusing
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.runtime.saved_arrays import leaves_by_name
from mnist_jax.runtime.signals import SignalWatch
from mnist_jax.tasks import TASKS, Task, create_task
from mnist_jax.train_step import TrainState, create_train_state, train_step

_TABLES: dict[str, Mapping[str, Any]] = {"model": MODELS, "task": TASKS}
_MAX_CALL_BYTES = 2**28  # Of the rows of a device call that come from the host.


@dataclasses.dataclass(frozen=True)
class Run:
    """An open run.

    Attributes:
      config: With the dataset and folders that are really used; see `configs.default`.
      workdir: The run's folder, absolute.
      source: The dataset's examples, on the devices or on the host.
      eval_indices: The batches of an evaluation by split; see `input_pipeline.eval_indices`.
      batch: Shapes and types of a step's batch.
      manifest: What each checkpoint records; its step and the values then are added at a save.
      init_variables: Of the checkpoint that a new run starts from, by name.
      is_from_python: Whether its dataset, model or task is an object of the caller's.
    """

    config: ConfigDict
    workdir: Path
    dataset: Dataset
    model: nn.Module
    task: Task
    source: Source
    eval_indices: Mapping[str, np.ndarray]
    batch: Mapping[str, jax.ShapeDtypeStruct]
    checkpoints: Checkpoints
    signals: SignalWatch
    manifest: Manifest
    init_variables: Mapping[str, np.ndarray]
    is_from_python: bool

    @property
    def validates_at_reports(self) -> bool:
        """Whether each report of a loss has one of the validation split, for their curves.

        Not if that would take a large part of the training's time.
        """
        trained = self.config.log_every_steps * self.config.batch_size
        return 2 * self.dataset.sizes["validation"] <= trained

    def create_state(self) -> TrainState:
        """Returns the state at step 0: random, or with the variables of `config.init_from`."""
        state = create_train_state(self.config, self.model, self.task, self.dataset.input)
        # Raises where an array does not fit; reading one of the others would wait for ever.
        jax.block_until_ready(state)
        start, treedef = self.init_variables, jax.tree.structure(state)
        if not start:
            return state
        leaves = [start.get(name, leaf) for name, leaf in leaves_by_name(state).items()]
        return jax.tree.unflatten(treedef, sharding.put_replicated(jax.device_get(leaves)))


@contextlib.contextmanager
def open_run(
    config: ConfigDict,
    workdir: str | Path | None,
    name: str,
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    task: Task | None = None,
) -> Iterator[Run]:
    """Opens a run; at its end waits for the last save and releases the folder.

    The arguments are those of `train_loop.train_and_evaluate`.

    Raises:
      UserError: In the config, the data or the workdir; nothing on disk has changed.
    """
    config, given = ConfigDict(config), {"dataset": dataset, "model": model, "task": task}
    if dataset:
        config.dataset = dataset.name
    config_lib.validate(config)
    config.lock()
    # What the run really uses, for whoever reads the config later.
    config.data_dir = str(tfds_source.data_dir(config))
    config.manual_dir = str(tfds_source.manual_dir(config))
    config.dataset = str(config_lib.own_path(config.dataset) or config.dataset)
    if config.init_from:
        config.init_from = str(run_folder.resolve("config.init_from", config.init_from))
    workdir = None if workdir is None else run_folder.locate(workdir)
    saved = _newest_manifest(workdir)
    names = config.dataset, saved and saved.config.dataset
    if not dataset and names == ("mnist", config.fallback_dataset):
        config.dataset = config.fallback_dataset  # The run fell back when it began.
    if saved:  # Before the data are loaded; the model and the task follow.
        later = {name: saved.config[name] for name in ("model", "task")}
        config_lib.check_resumable(ConfigDict({**config, **later}), saved.config, workdir)
    is_saved = saved is not None  # What was begun is not judged anew.
    named_task = create_task(config, is_saved=is_saved)
    task = named_task if task is None else task
    if dataset is None:
        # The other processes are told which one to load.
        may_fall_back = not is_saved and job.is_first_process()
        load = functools.cache(lambda: load_dataset(config, may_fall_back=may_fall_back))
        config.dataset = job.broadcast_from_first(lambda: load().name)
        dataset = load()
    elif job.is_first_process():
        dataset.print_warnings()
    with refusing(f"dataset: {dataset.name}", "choose another", Exception):
        task.check(dataset)
        num_outputs = task.num_outputs(dataset)
    named_model = create_model(config, num_outputs, is_saved=is_saved)
    model = named_model if model is None else model
    own = dict[str, dict[str, str]]()
    for field, chosen, named in (("task", task, named_task), ("model", model, named_model)):
        if given[field] is not None and not is_saved:
            config_lib.refuse_ignored(config, _TABLES[field], chosen, f"the given {field}")
        spec = config[field] if given[field] is None and ":" in config[field] else ""
        if spec or chosen != named:
            own[field] = own_code.describe(chosen, spec)
            config[field] = type(chosen).__name__  # Instead of a file, which may move.
    if saved:
        _check_resumable(config, own, saved, workdir)
    dataset.check_digest(saved.data_digest if saved else "")
    if config.batch_size > (size := dataset.sizes["train"]):  # Would contain an example twice.
        problem = f"is more than the {size} training examples; lower it"
        raise UserError(f"config.batch_size: {config.batch_size} {problem}")
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *array.shape[1:]), array.dtype)
        for name, array in dataset.examples._asdict().items()
    }
    state = check_code(config, model, task, dataset, batch)
    place = functools.partial(_choose_place, config, dataset, state)
    config.examples, config.steps_per_call = job.broadcast_from_first(place)
    init_from, init_variables = saved and saved.init_from, dict[str, np.ndarray]()
    if config.init_from and not saved:
        init_from, init_variables = restoring.read_start(config, state)
    parent = Path("runs", name)
    _assert_same(config, workdir, dataset, workdir or run_folder.locate(parent))
    if workdir is None:
        workdir = Path(job.broadcast_from_first(lambda: str(run_folder.create_new(parent))))
    claim = run_folder.claim(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sharding.use_devices(config.num_seeds))
        job.broadcast_from_first(lambda: stack.enter_context(claim))
        signals = stack.enter_context(SignalWatch())
        checkpoints = stack.enter_context(Checkpoints(workdir, keep=config.keep_checkpoints))
        # Again: from now on no other process can begin a run here.
        begun = _newest_manifest(workdir)
        if begun and begun != saved:
            _check_resumable(config, own, begun, workdir)
        yield Run(
            config=config,
            workdir=workdir,
            dataset=dataset,
            model=model,
            task=task,
            source=input_pipeline.create_source(dataset.examples, config.examples),
            eval_indices=input_pipeline.eval_indices(dataset.sizes, config.eval_batch_size),
            batch=batch,
            checkpoints=checkpoints,
            signals=signals,
            manifest=Manifest(
                step=0,
                config=config,
                class_names=dataset.class_names,
                best=None,
                image_shape=dataset.input.shape,
                image_dtype=str(dataset.input.dtype),
                normalization=dataset.normalization,
                own_code=own,
                init_from=init_from,
                data_digest=dataset.digest,
                environment=environment.describe(),
                num_outputs=num_outputs,
            ),
            init_variables=init_variables,
            is_from_python=any(given[kind] is not None for kind in ("dataset", *own)),
        )


def _newest_manifest(workdir: Path | None) -> Manifest | None:
    # Reads them all: each must be of this run, and fit this code.
    manifests = list(Checkpoints(workdir).intact_manifests()) if workdir else []
    return manifests[0] if manifests else None


def _check_resumable(
    config: ConfigDict, own: Mapping[str, Any], saved: Manifest, workdir: Path | None
) -> None:
    """Raises UserError if the run in the folder has another config, model or task."""
    config_lib.check_resumable(config, saved.config, workdir)
    for kind, table in _TABLES.items():
        here, there = own.get(kind), saved.own_code.get(kind)
        if not there and saved.config[kind] not in table:  # Version 0.2 recorded none.
            continue
        reprs = [x["repr"] if x else config[kind] for x in (here, there)]
        if reprs[0] != reprs[1]:
            problem = f"{kind} is {reprs[1]} there, {reprs[0]} here"
            raise UserError(f"{workdir}: its run's {problem}; choose another --workdir")
        if here and there:
            own_code.warn_if_changed(kind, here, there)


def check_code(
    config: ConfigDict,
    model: nn.Module,
    task: Task,
    dataset: Dataset,
    batch: Mapping[str, jax.ShapeDtypeStruct],
) -> TrainState:
    """Traces a step and an evaluation, without computing them; returns the state's shapes.

    Raises:
      UserError: One of them fails, or does not return what it should.
    """
    single, example = ConfigDict({**config, "num_seeds": 1}), dataset.input
    size = config.batch_size
    with _blaming("task", task, "its fields must be Python values or tuples"):
        hash(task)
    with _blaming("model", model, f"its input is {example.dtype}{[*batch['image'].shape]}"):
        state = jax.eval_shape(lambda: create_train_state(single, model, task, example))
        apply = functools.partial(model.apply, train=False)
        outputs = jax.eval_shape(apply, state.variables, batch["image"])
        found, wanted = getattr(outputs, "shape", outputs), (size, task.num_outputs(dataset))
        if found != wanted:
            raise ValueError(f"returns {found}, expected an array {wanted}")
    with _blaming("task", task, "its loss and its metrics are [batch], a number an example"):
        metrics = jax.eval_shape(task.metrics, outputs, batch)
        values = {**metrics, "loss": jax.eval_shape(task.loss, outputs, batch)}
        for name, value in values.items():
            if value.shape != (size,):
                raise ValueError(f"{name} is {[*value.shape]}, expected {[size]}")
        every = jax.ShapeDtypeStruct((2, *outputs.shape), outputs.dtype)
        if jax.eval_shape(task.combine, every).shape != outputs.shape:
            raise ValueError(f"combine must return an array {outputs.shape}")
        names = {*metrics}
        with contextlib.suppress(ArithmeticError), np.errstate(all="ignore"):
            # Errors of these numbers, not of real ones.
            names |= {*task.summarize(dict.fromkeys(values, np.float64(1)), 1)}
            if task.best[0] not in {*names, "loss"} or task.best[1] not in ("max", "min"):
                choices = [*sorted(names), "loss"]
                raise ValueError(f"best is {task.best}, expected one of {choices}, max or min")
        for name in names:
            reserved = name in ("loss", "num_examples") or name.startswith("committee_")
            if reserved or not re.fullmatch(r"[\w.@%+-]+", name):
                raise ValueError(f"{name!r} is reserved, or no name; rename the metric")
    field = "augmentation" if config.augmentation else "model"
    with _blaming(field, config[field], "it must suit the data, and train=True"):
        jax.eval_shape(train_step, state, batch)
    return state


def _blaming(field: str, value: object, advice: str) -> contextlib.AbstractContextManager[None]:
    name = value if isinstance(value, str) else type(value).__name__
    return refusing(f"config.{field}: {name}", advice, Exception)


def _choose_place(config: ConfigDict, dataset: Dataset, state: TrainState) -> tuple[str, int]:
    """Returns where the examples are, and how many steps a device call has.

    Raises:
      UserError: The run can't fit into the memory, by a lower bound of what it allocates.
    """
    place = input_pipeline.choose_place(dataset.examples, config.examples)
    # The gradients are as large as the parameters.
    need = config.num_seeds * memory.num_bytes(state) + memory.num_bytes(state.params)
    if need > (limit := memory.device_limit()):
        field = "hidden_sizes" if config.model == "mlp" else "model"
        field = "num_seeds" if config.num_seeds > 1 else field
        problem = f"the run needs at least {need / 1e9:.1f} GB of memory, and each device has"
        raise UserError(f"config.{field}: {problem} {limit / 1e9:.1f} GB; reduce it")
    if place == "device":
        return place, config.steps_per_call
    row = dataset.examples.image.nbytes // len(dataset.examples.label)
    step_bytes = config.num_seeds * config.batch_size * row
    return place, max(1, min(config.steps_per_call, _MAX_CALL_BYTES // max(1, step_bytes)))


def _assert_same(
    config: ConfigDict, workdir: Path | None, dataset: Dataset, folder: Path
) -> None:
    """Raises an error in every process unless all have the same run and share its folder."""
    own_folders = {"data_dir": None, "manual_dir": None}  # Each machine may have its own.
    job.assert_same_on_all_processes("config", config.to_dict() | own_folders)
    job.assert_same_on_all_processes("workdir", workdir)
    job.assert_same_on_all_processes(f"dataset {config.dataset}", dataset.digest)
    if jax.process_count() > 1:
        with contextlib.ExitStack() as stack:
            token = job.broadcast_from_first(
                lambda: stack.enter_context(run_folder.create_token(folder)).name
            )
            is_shared = Path(token).exists()
            job.assert_same_on_all_processes(f"file system of workdir {folder}", is_shared)

"""Opens a run: resolves the config, loads the data, claims the folder, finds checkpoints."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from mnist_jax import input_pipeline
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.data import tfds_source
from mnist_jax.data.datasets import Dataset
from mnist_jax.data.load import load_dataset
from mnist_jax.models import create_model
from mnist_jax.parallel import job, sharding
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime import environment, memory, run_folder
from mnist_jax.runtime.errors import UserError
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.runtime.signals import SignalWatch
from mnist_jax.train_step import create_train_state


@dataclasses.dataclass(frozen=True)
class Run:
    """An open run.

    Attributes:
      config: With the dataset and folders that are really used; see `configs.default`.
      workdir: The run's folder, absolute.
      examples: The dataset's images and labels, on the devices.
      eval_indices: The batches of an evaluation by split; see `input_pipeline.eval_indices`.
    """

    config: ConfigDict
    workdir: Path
    dataset: Dataset
    model: nn.Module
    examples: tuple[jax.Array, jax.Array]
    eval_indices: Mapping[str, np.ndarray]
    checkpoints: Checkpoints
    signals: SignalWatch

    def manifest(
        self, step: int, validation_accuracy: float | None, journal_sha256: str | None
    ) -> Manifest:
        """Returns what a checkpoint of the run records, besides its files."""
        return Manifest(
            step=step,
            config=self.config,
            class_names=self.dataset.class_names,
            data_digest=self.dataset.digest,
            image_shape=self.dataset.image_shape,
            validation_accuracy=validation_accuracy,
            environment=environment.describe(),
            journal_sha256=journal_sha256,
        )


@contextlib.contextmanager
def open_run(
    config: ConfigDict,
    workdir: str | Path | None,
    name: str,
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
) -> Iterator[Run]:
    """Opens a run; at its end waits for the last save and releases the folder.

    The arguments are those of `train_loop.train_and_evaluate`.

    Raises:
      UserError: In the config, the data or the workdir; nothing on disk has changed.
    """
    config = ConfigDict(config)
    if dataset:
        config.dataset = dataset.name
    if model:
        config.model = type(model).__name__
    config_lib.validate(config)
    config.lock()
    # What the run really uses, for whoever reads the config later.
    config.data_dir = str(tfds_source.data_dir(config))
    config.manual_dir = str(tfds_source.manual_dir(config))
    config.dataset = str(config_lib.own_path(config.dataset) or config.dataset)
    workdir = None if workdir is None else run_folder.locate(workdir)
    saved = _newest_manifest(workdir)
    names = config.dataset, saved and saved.config.dataset
    if not dataset and names == ("mnist", config.fallback_dataset):
        config.dataset = config.fallback_dataset  # The run fell back when it began.
    if saved:
        config_lib.check_resumable(config, saved.config, workdir)
    dataset = dataset or _load_dataset(config, may_fall_back=saved is None)
    dataset.check_digest(saved.data_digest if saved else "")
    if config.batch_size > (size := dataset.sizes["train"]):  # Would contain an example twice.
        problem = f"is more than the {size} training examples; lower it"
        raise UserError(f"config.batch_size: {config.batch_size} {problem}")
    model = model or create_model(config, dataset.num_classes)
    job.broadcast_from_first(functools.partial(_check_memory, config, dataset, model))
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
        if begun := _newest_manifest(workdir):
            config_lib.check_resumable(config, begun.config, workdir)
        yield Run(
            config=config,
            workdir=workdir,
            dataset=dataset,
            model=model,
            examples=sharding.put_replicated(tuple(dataset.examples)),
            eval_indices=input_pipeline.eval_indices(dataset.sizes, config.eval_batch_size),
            checkpoints=checkpoints,
            signals=signals,
        )


def _newest_manifest(workdir: Path | None) -> Manifest | None:
    # Reads them all: each must be of this run, and fit this code.
    manifests = list(Checkpoints(workdir).intact_manifests()) if workdir else []
    return manifests[0] if manifests else None


def _load_dataset(config: ConfigDict, *, may_fall_back: bool) -> Dataset:
    """Loads the dataset in the first process, then the same one in the others."""
    may_fall_back &= job.is_first_process()
    load = functools.cache(lambda: load_dataset(config, may_fall_back=may_fall_back))
    config.dataset = job.broadcast_from_first(lambda: load().name)
    return load()


def _check_memory(config: ConfigDict, dataset: Dataset, model: nn.Module) -> None:
    """Raises UserError if the run can't fit, by a lower bound of what it allocates."""
    single = ConfigDict({**config, "num_seeds": 1})
    state = jax.eval_shape(lambda: create_train_state(single, model, dataset.image_shape))
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), np.uint8)
    apply = functools.partial(
        model.apply, train=False, mutable=["intermediates"], capture_intermediates=True
    )
    _, outputs = jax.eval_shape(apply, state.variables, image)
    layer_bytes = [memory.num_bytes(output) for output in jax.tree.leaves(outputs)]
    num_devices = jax.device_count()
    size = "hidden_sizes" if config.model == "mlp" else "model"
    size = "num_seeds" if config.num_seeds > 1 else size
    needs = {
        # The gradients are as large as the parameters.
        size: config.num_seeds * memory.num_bytes(state) + memory.num_bytes(state.params),
        "dataset": sum(array.nbytes for array in dataset.examples),
        # The gradients need the output of every layer, an evaluation one at a time.
        "batch_size": sum(layer_bytes) * config.batch_size // num_devices,
        "eval_batch_size": max(layer_bytes) * config.eval_batch_size // num_devices,
    }
    need = sum(needs.values()) - min(needs["batch_size"], needs["eval_batch_size"])
    limit = memory.device_limit()
    if need > limit:
        shares = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in needs.items())
        raise UserError(
            f"config.{max(needs, key=needs.__getitem__)}: the run needs at least "
            f"{need / 1e9:.1f} GB of memory ({shares}), and each device has "
            f"{limit / 1e9:.1f} GB; reduce it"
        )


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

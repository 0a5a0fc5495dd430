"""A trained model from a workdir alone: its parameters, its config and its data."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.data.datasets import Dataset
from mnist_jax.data.load import load_dataset
from mnist_jax.models import create_model
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import DamagedCheckpointError, UserError
from mnist_jax.train_step import ApplyFn, Params


class TrainedModel(NamedTuple):
    """A model as of one checkpoint: `step` completed updates, parameters on the device."""

    workdir: Path
    step: int
    config: ConfigDict
    apply_fn: ApplyFn
    params: Params

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class.

        Args:
          images: `uint8[n, 28, 28]`, in the form of MNIST's images.

        Returns:
          `float32[n, num_classes]`; its rows sum to 1.
        """
        return np.asarray(_predict(self.params, images, apply_fn=self.apply_fn))


@functools.partial(jax.jit, static_argnames="apply_fn")
def _predict(params: Params, images: jax.Array, *, apply_fn: ApplyFn) -> jax.Array:
    return jax.nn.softmax(apply_fn({"params": params}, images))


def restore(workdir: str | Path, step: str = "latest") -> TrainedModel:
    """Restores the parameters of a checkpoint; changes nothing on disk.

    Args:
      workdir: The run's folder.
      step: `latest`, `best` (by validation accuracy), or a number.

    Raises:
      UserError: There is no such checkpoint, or it does not fit this code.
      DamagedCheckpointError: The checkpoint is damaged.
    """
    workdir = run_folder.locate(workdir)
    checkpoints = Checkpoints(workdir)
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"workdir: {workdir} contains no checkpoints")
    choices = f"choose latest, best or one of {', '.join(map(str, steps))}"
    try:
        if step == "best":
            number = best_step(map(checkpoints.manifest, steps))
        else:
            number = {"latest": steps[-1], **{str(n): n for n in steps}}.get(step)
        if number is None:
            raise UserError(f"step: {workdir} has no checkpoint {step!r}; {choices}")
        manifest = checkpoints.manifest(number)
        model = create_model(manifest.config, manifest.num_classes)
        images = jax.ShapeDtypeStruct((1, 28, 28), np.uint8)
        target = jax.eval_shape(model.init, jax.random.key(0), images)
        params = checkpoints.restore(number, target)["params"]
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(f"{error}; {choices}") from error
    return TrainedModel(workdir, number, manifest.config, model.apply, params)


def load_run_dataset(config: ConfigDict) -> Dataset:
    """Loads the dataset that the run used, and no other one.

    Raises:
      UserError: It is not available.
    """
    config = ConfigDict(config).unlock()
    for field in ("data_dir", "manual_dir"):
        if not Path(config[field]).is_dir():
            config[field] = ""  # The run was made on another machine: use this one's default.
    return load_dataset(config.lock(), may_fall_back=False)

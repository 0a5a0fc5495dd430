"""A trained model from a workdir alone: its parameters, its config and its data."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mnist_jax import checkpointing
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.data import load
from mnist_jax.data.datasets import Dataset
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import DamagedCheckpointError, UserError
from mnist_jax.train_step import ApplyFn, Params, create_model, predict_step


class TrainedModel(NamedTuple):
    """A model as of one checkpoint.

    Attributes:
      workdir: The run's folder, absolute.
      step: Completed updates.
      config: The run's.
      apply_fn: The model's `apply`.
      params: Its parameters, on the device.
    """

    workdir: Path
    step: int
    config: ConfigDict
    apply_fn: ApplyFn
    params: Params

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns each class's probability.

        Args:
          images: `uint8[n, 28, 28]`, as MNIST's are.

        Returns:
          `float32[n, num_classes]`; its rows sum to 1.
        """
        return np.exp(np.asarray(predict_step(self.params, images, apply_fn=self.apply_fn)))


def restore(workdir: str | Path, step: str = "latest") -> TrainedModel:
    """Restores the parameters of a checkpoint; nothing on disk is touched.

    Args:
      workdir: The run's folder.
      step: `latest`, `best` (by validation accuracy), or a number.

    Raises:
      UserError: There is no such checkpoint.
      DamagedCheckpointError: There is, but it can't be trusted.
    """
    workdir = run_folder.locate(workdir)
    if not checkpointing.exist(workdir):
        raise UserError(f"workdir: {workdir} holds no checkpoints")
    with Checkpoints(workdir) as checkpoints:
        try:
            number = _choose(checkpoints, step, workdir)
            manifest = checkpoints.manifest(number)
            model = create_model(manifest.config, manifest.num_classes)
            target = jax.eval_shape(
                model.init, jax.random.key(0), jnp.zeros((1, 28, 28), jnp.uint8)
            )
            params = checkpoints.restore_params(number, target["params"])
        except DamagedCheckpointError as error:
            steps = ", ".join(map(str, checkpoints.steps()))
            raise DamagedCheckpointError(
                f"{error}; choose another step, there are: {steps}"
            ) from error
    return TrainedModel(workdir, number, manifest.config, model.apply, params)


def _choose(checkpoints: Checkpoints, step: str, workdir: Path) -> int:
    steps = checkpoints.steps()
    listed = ", ".join(map(str, steps)) or "none"
    if step == "latest":
        chosen = steps[-1] if steps else None
    elif step == "best":
        chosen = checkpoints.best_step()
    elif step.isdecimal():
        chosen = int(step) if int(step) in steps else None
    else:
        raise UserError(f"step: {step!r} is not latest, best or a number")
    if chosen is None:
        raise UserError(f"step: {workdir} has no checkpoint {step!r}; there are: {listed}")
    return chosen


def load_dataset(config: ConfigDict) -> Dataset:
    """Loads the dataset that the run used; another will not do.

    Raises:
      UserError: It can't be had.
    """
    config = ConfigDict(config).unlock()
    for field in ("data_dir", "manual_dir"):
        if not Path(config[field]).is_dir():
            config[field] = ""  # The run was made elsewhere: look where this machine has it.
    return load.load(config.lock(), may_fall_back=False)

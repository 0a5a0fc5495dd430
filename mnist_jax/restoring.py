"""A trained model from a workdir alone: its parameters, its config and its data."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from mnist_jax import committee
from mnist_jax.checkpointing import Checkpoints, best_step
from mnist_jax.data.datasets import Dataset
from mnist_jax.data.load import load_dataset
from mnist_jax.members import select
from mnist_jax.models import create_model
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import CommandError, DamagedCheckpointError, UserError
from mnist_jax.train_step import ApplyFn, Variables


class TrainedModel(NamedTuple):
    """A model as of one checkpoint: `step` completed updates, variables on the device.

    `class_names`, `image_shape` and `data_digest` are those of the dataset of its training.
    With `num_members` above 1 it is a committee, and the variables are those of all members.
    """

    workdir: Path
    step: int
    config: ConfigDict
    model: nn.Module
    variables: Variables
    class_names: Sequence[str]
    image_shape: Sequence[int]
    data_digest: str
    num_members: int = 1

    @property
    def apply_fn(self) -> ApplyFn:
        """Computes logits from the variables and images, as `model.apply` does."""
        if self.num_members == 1:
            return self.model.apply
        return committee.create_apply(self.model.apply)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class.

        Args:
          images: `uint8[n, *image_shape]`, in the form of the dataset's.

        Returns:
          `float32[n, num_classes]`; its rows sum to 1.
        """
        return np.asarray(_predict(self.variables, images, apply_fn=self.apply_fn))


@functools.partial(jax.jit, static_argnames="apply_fn")
def _predict(variables: Variables, images: jax.Array, *, apply_fn: ApplyFn) -> jax.Array:
    return jax.nn.softmax(apply_fn(variables, images, train=False))


def restore(
    workdir: str | Path,
    step: str = "latest",
    *,
    model: nn.Module | None = None,
    member: int | None = None,
) -> TrainedModel:
    """Restores the model of a checkpoint; changes nothing on disk.

    Args:
      workdir: The run's folder.
      step: `latest`, `best` (by validation accuracy), or a number.
      model: The one that was given to `train_and_evaluate`, if one was.
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
        model = model or create_model(manifest.config, len(manifest.class_names))
        images = jax.ShapeDtypeStruct((1, *manifest.image_shape), np.uint8)
        init = functools.partial(model.init, train=False)
        if num_members > 1:
            init = jax.vmap(init, axis_size=num_members, in_axes=None)
        collections = jax.eval_shape(init, jax.random.key(0), images)
        target = {"params": collections.pop("params"), "collections": collections}
        restored = checkpoints.restore(number, target)
    except CommandError as error:
        if checkpoints.steps() != steps:  # A training run deleted one meanwhile.
            return restore(workdir, step, model=model, member=member)
        if isinstance(error, DamagedCheckpointError):
            raise DamagedCheckpointError(f"{error}; {choices}") from error
        raise
    variables = {"params": restored["params"], **restored["collections"]}
    if member is not None:
        variables, num_members = select(variables, member, num_members), 1
    return TrainedModel(
        workdir,
        number,
        manifest.config,
        model,
        variables,
        manifest.class_names,
        manifest.image_shape,
        manifest.data_digest,
        num_members,
    )


def load_run_dataset(model: TrainedModel) -> Dataset:
    """Loads the dataset that the model was trained on, and no other one.

    Raises:
      UserError: It is not available, or has changed.
    """
    config = ConfigDict(model.config).unlock()
    for field in ("data_dir", "manual_dir"):
        if not Path(config[field]).is_dir():
            config[field] = ""  # The run was made on another machine: use this one's default.
    dataset = load_dataset(config.lock(), may_fall_back=False)
    dataset.check_digest(model.data_digest)
    return dataset

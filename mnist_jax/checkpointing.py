"""Checkpoints: an orbax manager, and beside each state a manifest that vouches for it.

`<workdir>/checkpoints/<step>/` holds two items: `state` (the train state) and `manifest`
(JSON: step, config, validation accuracy, and digests of the state, since orbax alone
restores a flipped byte as a wrong number without a word). Nothing here unpickles.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

from mnist_jax import config as config_lib
from mnist_jax.errors import DamagedCheckpointError

_FOLDER = "checkpoints"
_SET_ASIDE_FOLDER = "damaged"


class Manifest(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
      step: Completed updates.
      config: The run's config, with the dataset that was really used.
      num_classes: That dataset's.
      validation_accuracy: At this step, where it was evaluated.
      digests: Of `params`, and of the `rest` of the state.
    """

    step: int
    config: ConfigDict
    num_classes: int
    validation_accuracy: float | None
    digests: dict[str, str]


class Checkpoints:
    """The checkpoints of one workdir; a context manager that waits for saves under way."""

    def __init__(self, workdir: Path, *, keep: int | None = None):
        """Opens them.

        Args:
          workdir: The run's folder, absolute.
          keep: How many of the newest to keep, beside the best; None: only to read, and
            nothing on disk is touched.
        """
        self._folder = workdir / _FOLDER
        self._set_aside_folder = workdir / _SET_ASIDE_FOLDER
        self._accuracies: dict[int, float] = {}
        # Not orbax's `read_only`, which warns of itself: without `save` nothing is written.
        writes = keep is not None
        options = ocp.CheckpointManagerOptions(
            create=writes,
            cleanup_tmp_directories=writes,
            preservation_policy=_NewestAndBest(keep or 0, self._accuracies),
        )
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=options,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "manifest": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Returns the steps there are checkpoints of, damaged ones included, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step of the highest validation accuracy, the newest of equals.

        Raises:
          DamagedCheckpointError: One of the manifests can't be trusted.
        """
        manifests = [self.manifest(step) for step in self.steps()]
        rated = [m for m in manifests if m.validation_accuracy is not None]
        best = max(rated, key=lambda m: (m.validation_accuracy, m.step), default=None)
        return best.step if best else None

    def manifest(self, step: int) -> Manifest:
        """Reads a checkpoint's manifest.

        Raises:
          DamagedCheckpointError: It can't be read, or is not what was written.
        """
        try:
            args = ocp.args.Composite(manifest=ocp.args.JsonRestore())
            item = self._manager.restore(step, args=args)["manifest"]
            content = item["content"]
            if _sha256(_canonical(content)) != item["sha256"] or content["step"] != step:
                raise ValueError("the manifest's digest differs")
            manifest = Manifest(**content)
            return manifest._replace(config=config_lib.from_json(content["config"]))
        except Exception as error:  # orbax raises almost anything on a damaged folder.
            raise self._damaged(step, error) from error

    def save(
        self,
        state: TrainState,
        config: ConfigDict,
        num_classes: int,
        validation_accuracy: float | None,
    ) -> None:
        """Starts saving the state; returns once the state may be donated.

        Args:
          state: Fully addressable or replicated arrays.
          config: Stored with it.
          num_classes: Likewise.
          validation_accuracy: At this step; None where it was not evaluated.
        """
        step = int(state.step)
        content = {
            "step": step,
            "config": config_lib.to_json(config),
            "num_classes": num_classes,
            "validation_accuracy": validation_accuracy,
            "digests": _digests(state),
        }
        manifest = {"content": content, "sha256": _sha256(_canonical(content))}
        if validation_accuracy is not None:
            self._accuracies[step] = validation_accuracy
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(_as_dict(state)),
                manifest=ocp.args.JsonSave(manifest),
            ),
            force=True,
        )

    def restore(self, step: int, target: TrainState) -> TrainState:
        """Returns the checkpoint's state, verified.

        Args:
          step: One of `steps()`.
          target: A state, or its `jax.eval_shape`, of the same structure.

        Raises:
          DamagedCheckpointError: It can't be read, or is not what was saved.
        """
        manifest = self.manifest(step)
        restored = self._restore(step, _as_dict(target))
        state = target.replace(**restored)
        if _digests(state) != manifest.digests:
            raise self._damaged(step, "the state's digest differs")
        if manifest.validation_accuracy is not None:
            self._accuracies[step] = manifest.validation_accuracy
        return jax.device_put(state)

    def restore_params(self, step: int, target: Any) -> Any:
        """Returns the checkpoint's parameters alone, verified; see `restore`."""
        manifest = self.manifest(step)
        params = self._restore(step, {"params": target})["params"]
        if _digest(params) != manifest.digests["params"]:
            raise self._damaged(step, "the parameters' digest differs")
        return jax.device_put(params)

    def _restore(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
        # As NumPy arrays: any number of devices, and what the digest is made of.
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
        args = ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        except Exception as error:  # orbax raises almost anything on a damaged folder.
            raise self._damaged(step, error) from error
        return jax.tree.map(np.asarray, restored)

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint out of the way, and returns where to."""
        self._set_aside_folder.mkdir(exist_ok=True)
        taken = {path.name for path in self._set_aside_folder.iterdir()}
        names = (f"{step}-{number}" for number in range(len(taken) + 1))
        destination = self._set_aside_folder / next(n for n in names if n not in taken)
        (self._folder / str(step)).rename(destination)
        self._manager.reload()
        return destination

    def _damaged(self, step: int, reason: Exception | str) -> DamagedCheckpointError:
        first_line = (str(reason) or type(reason).__name__).splitlines()[0]
        return DamagedCheckpointError(
            f"{self._folder / str(step)}: the checkpoint of step {step} is damaged "
            f"({first_line[:200]})"
        )


class _NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest `keep` checkpoints and the one of the best accuracy.

    orbax's own `BestN` reads the metrics from a file that nothing vouches for.
    """

    def __init__(self, keep: int, accuracies: dict[int, float]):
        self._keep = keep
        self._accuracies = accuracies

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(sorted(steps)[-self._keep :])
        rated = [(self._accuracies[step], step) for step in steps if step in self._accuracies]
        if rated:
            kept.add(max(rated)[1])
        return [step in kept for step in steps]


def exist(workdir: Path) -> bool:
    """Returns whether the workdir has a folder of checkpoints."""
    return (workdir / _FOLDER).is_dir()


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def _digests(state: TrainState) -> dict[str, str]:
    return {
        "params": _digest(state.params),
        "rest": _digest({"step": state.step, "opt_state": state.opt_state}),
    }


def _digest(tree: Any) -> str:
    """SHA-256 over path, dtype, shape and bytes of every leaf, in the tree's order."""
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        header = [jax.tree_util.keystr(path), array.dtype.str, list(np.shape(leaf))]
        sha256.update(_canonical(header))
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""Checkpoints: orbax's manager saves the state, and a manifest vouches for every byte.

`<workdir>/checkpoints/<step>/default/` holds what orbax's PyTree handler writes, and
`manifest.json`: step, config, validation accuracy, and the SHA-256 of every file. orbax alone
restores a flipped byte as a wrong number without a word, and some damage it answers with
tracebacks of its own threads; here it reads nothing that has not been verified. Nothing
unpickles.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

from mnist_jax.parallel import devices
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import DamagedCheckpointError, first_line, writing_to

_FOLDER = "checkpoints"
_SET_ASIDE_FOLDER = "damaged"
_ITEM = "default"  # The manager's name for the only item of a checkpoint.
_MANIFEST = "manifest.json"
_COMMIT_MARK = "commit_success.txt"  # Written by orbax after the manifest; not read here.
_DELETED_FOLDER = "deleted"


class Manifest(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
      step: Completed updates.
      config: The run's config, with the dataset that was really used.
      num_classes: That dataset's.
      validation_accuracy: At this step, where it was evaluated.
      digests: SHA-256 of every file that is read, by its path inside the folder.
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
        self._accuracies: dict[int, float | None] = {}
        self._manager: ocp.CheckpointManager | None = None
        if keep is not None:
            with self._writing():
                self._folder.mkdir(parents=True, exist_ok=True)
                self._manager = ocp.CheckpointManager(
                    self._folder,
                    item_handlers=_VouchingHandler(),
                    options=ocp.CheckpointManagerOptions(
                        preservation_policy=_NewestAndBest(keep, self._accuracies),
                        cleanup_tmp_directories=True,
                        lightweight_initialize=True,  # Reads none of what may be damaged.
                        # Renamed, then deleted here: killed in between, orbax leaves a
                        # half-deleted checkpoint, which would pass for a damaged one.
                        todelete_subdir=_DELETED_FOLDER,
                    ),
                )
                self._delete_renamed()
            for step in self.steps():
                with contextlib.suppress(DamagedCheckpointError):
                    self._accuracies[step] = self.manifest(step).validation_accuracy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._manager:
            with self._writing():
                self._manager.close()
                self._delete_renamed()

    def steps(self) -> list[int]:
        """Returns the steps there are checkpoints of, damaged ones included, ascending.

        Waits for a save under way.
        """
        if self._manager:
            with self._writing():
                self._manager.wait_until_finished()
        if not self._folder.is_dir():
            return []
        names = (path.name for path in self._folder.iterdir())
        return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))

    def best_step(self) -> int | None:
        """Returns the step of the highest validation accuracy, the newest of equals.

        Raises:
          DamagedCheckpointError: One of the manifests can't be trusted.
        """
        return _best({m.step: m.validation_accuracy for m in map(self.manifest, self.steps())})

    def manifest(self, step: int) -> Manifest:
        """Reads a checkpoint's manifest, and verifies all of its files.

        Raises:
          DamagedCheckpointError: Something is not what was written.
        """
        folder = self._item(step)
        try:
            _refuse_links(folder.parent)
            digests = _digests(folder)
            sealed = json.loads((folder / _MANIFEST).read_text())
            content = sealed["content"]
            if _seal(content) != sealed["sha256"] or content["step"] != step:
                raise ValueError(f"{_MANIFEST} is not what was written")
            if digests != content["digests"]:
                changed = dict(digests.items() ^ content["digests"].items())
                raise ValueError(f"{min(changed)} is not what was written")
            config = config_lib.from_json(content["config"])
            return Manifest(**{**content, "config": config})
        except Exception as error:  # Damaged JSON can be anything, of any type.
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

        Raises:
          WriteError: This save, or the one before it, failed.
        """
        if not self._manager:
            raise ValueError("opened only to read")
        step = int(state.step)
        content = {
            "step": step,
            "config": config.to_dict(),
            "num_classes": num_classes,
            "validation_accuracy": validation_accuracy,
        }
        self._accuracies[step] = validation_accuracy
        with self._writing():
            self._manager.wait_until_finished()
            self._delete_renamed()
            args = _SaveArgs(_as_dict(state), manifest=content)
            self._manager.save(step, args=args, force=True)

    def restore(self, step: int, target: TrainState) -> TrainState:
        """Returns the checkpoint's state, verified.

        Args:
          step: One of `steps()`.
          target: A state, or its `jax.eval_shape`, of the same structure.

        Raises:
          DamagedCheckpointError: It can't be read, or is not what was saved.
        """
        restored = self._restore(step, _as_dict(target), partial=False)
        return devices.put(target.replace(**restored))

    def restore_params(self, step: int, target: Any) -> Any:
        """Returns the checkpoint's parameters alone, verified; see `restore`."""
        restored = self._restore(step, {"params": target}, partial=True)
        return devices.put(restored["params"])

    def _restore(self, step: int, target: dict[str, Any], *, partial: bool) -> dict[str, Any]:
        self.manifest(step)  # Verifies it.
        # As NumPy arrays: any number of devices.
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
        args = ocp.args.PyTreeRestore(
            target, restore_args=restore_args, partial_restore=partial
        )
        try:
            restored = ocp.PyTreeCheckpointHandler().restore(self._item(step), args=args)
            jax.tree.map_with_path(_check_leaf, target, restored)
        except Exception as error:  # orbax raises almost anything.
            raise self._damaged(step, error) from error
        return restored

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint out of the way, and returns where to."""
        with self._writing():
            self._set_aside_folder.mkdir(exist_ok=True)
            taken = {path.name for path in self._set_aside_folder.iterdir()}
            names = (f"{step}-{number}" for number in range(len(taken) + 1))
            destination = self._set_aside_folder / next(n for n in names if n not in taken)
            (self._folder / str(step)).rename(destination)
            if self._manager:
                self._manager.reload()
        return destination

    def _item(self, step: int) -> Path:
        return self._folder / str(step) / _ITEM

    def _delete_renamed(self) -> None:
        # Only while nothing is being saved: the end of a save renames into the folder.
        deleted = self._folder / _DELETED_FOLDER
        if deleted.exists() and devices.is_first():
            shutil.rmtree(deleted)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        # orbax raises almost anything.
        with writing_to(self._folder, Exception), devices.ending_with_a_lost_process():
            yield

    def _damaged(self, step: int, reason: Exception) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            f"{self._folder / str(step)}: the checkpoint of step {step} is damaged "
            f"({first_line(reason)})"
        )


class _VouchingHandler(ocp.PyTreeCheckpointHandler):
    """Adds the manifest: the last file before orbax commits the folder by renaming it."""

    async def async_save(
        self, directory: Any, item: Any = None, save_args: Any = None, args: Any = None
    ) -> Any:
        self._content = args.manifest
        return await super().async_save(directory, item, save_args, args)

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        folder = Path(directory)
        content = {**self._content, "digests": _digests(folder)}
        sealed = {"content": content, "sha256": _seal(content)}
        (folder / _MANIFEST).write_text(json.dumps(sealed, indent=1))


@ocp.args.register_with_handler(_VouchingHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _SaveArgs(ocp.args.PyTreeSave):
    manifest: dict[str, Any] = dataclasses.field(default_factory=dict)


class _NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """`steps_to_keep`, as the manager asks for it."""

    def __init__(self, keep: int, accuracies: Mapping[int, float | None]):
        self._keep = keep
        self._accuracies = accuracies

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        accuracies = {step: self._accuracies.get(step) for step in steps}
        kept = steps_to_keep(accuracies, self._keep)
        return [step in kept for step in steps]


def steps_to_keep(accuracies: Mapping[int, float | None], keep: int) -> set[int]:
    """Returns the newest `keep` steps and the best.

    orbax's own policies evict the newest for the best, or take the accuracy from a file that
    nothing vouches for.

    Args:
      accuracies: Of each step that there is; None where it is not known.
      keep: At least 1.
    """
    kept = set(sorted(accuracies)[-keep:])
    best = _best(accuracies)
    return kept if best is None else kept | {best}


def exist(workdir: Path) -> bool:
    """Returns whether the workdir has a folder of checkpoints."""
    return (workdir / _FOLDER).is_dir()


def _best(accuracies: Mapping[int, float | None]) -> int | None:
    rated = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
    return max(rated)[1] if rated else None


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def _check_leaf(path: Any, wanted: Any, found: Any) -> None:
    # orbax hands back what it finds, and the target's own leaf where it finds nothing.
    same = isinstance(found, np.ndarray) and (found.shape, found.dtype) == (
        wanted.shape,
        wanted.dtype,
    )
    if not same:
        raise ValueError(f"{jax.tree_util.keystr(path)} is not that of this model")


def _digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file to vouch for, by its path inside the folder."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (_MANIFEST, _COMMIT_MARK):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _refuse_links(folder: Path) -> None:
    """Raises ValueError at what is neither a file nor a folder.

    A link could lead out of the workdir, and a pipe would be waited for.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.name} is neither a file nor a folder")


def _seal(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()

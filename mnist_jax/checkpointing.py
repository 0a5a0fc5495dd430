"""Checkpoints: orbax saves and restores the state, a manifest detects damage.

`<workdir>/checkpoints/<step>/default/` contains the files of orbax's PyTree handler and a
manifest with their SHA-256. orbax alone would restore a flipped byte as a wrong number, so
nothing is read before its digest has been verified. Nothing is unpickled.
"""

import contextlib
import functools
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mnist_jax.parallel import job, sharding
from mnist_jax.runtime import manifest as manifest_lib
from mnist_jax.runtime import run_folder, saved_arrays, terminal
from mnist_jax.runtime.errors import (
    DamagedCheckpointError,
    TrainingDivergedError,
    UserError,
    first_line,
    writing_to,
)
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.train_step import TrainState

_ITEM = "default"  # The manager's name for the only item of a checkpoint.
_OPTIONS = ocp.CheckpointManagerOptions(
    cleanup_tmp_directories=True,
    lightweight_initialize=True,  # Reads no file: some may be damaged.
)


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The checkpoints of one workdir; a context manager that waits for the last save."""

    def __init__(self, workdir: Path, *, keep: int = 0):
        """Opens the checkpoints of a run's folder, an absolute path.

        `keep` is the number of newest checkpoints to keep, in addition to the best one. 0: for
        reading only; nothing on disk is changed.
        """
        self._folder, self._keep = workdir / "checkpoints", keep
        self._manager: ocp.CheckpointManager | None = None
        self._run_id = run_folder.read_id(workdir)
        if keep:
            self._run_id = job.broadcast_from_first(self._identify_run)

    def __exit__(self, *error: object) -> None:
        if self._manager:
            with self._writing():
                self._manager.close()
                self._delete_superseded()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, damaged ones included, ascending."""
        if self._manager:
            with self._writing():
                self._manager.wait_until_finished()
        names = (path.name for path in self._folder.glob("*"))
        return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))

    def manifest(self, step: int, *, verify_files: bool = False) -> Manifest:
        """Returns a checkpoint's manifest, after verifying it and optionally all other files.

        Raises:
          DamagedCheckpointError: A file is not what was written.
          UserError: The checkpoint is of another run, or this code can't use it.
        """
        folder = self._folder / str(step)
        try:
            manifest = manifest_lib.read(folder / _ITEM)
            if manifest.step != step:
                raise ValueError(f"it is that of step {manifest.step}")
            if verify_files:
                manifest_lib.verify_files(folder / _ITEM, manifest)
        except UserError as error:
            raise self._incompatible(step, error) from error
        except Exception as error:  # Damaged JSON raises errors of any type.
            raise DamagedCheckpointError(
                f"{folder}: the checkpoint of step {step} is damaged ({first_line(error)})"
            ) from error
        if self._run_id and manifest.run_id not in (None, self._run_id):
            problem = f"the checkpoint of step {step} is not of this run, as run_id says"
            raise UserError(f"{folder}: {problem}; move it back to its own --workdir")
        return manifest

    def intact_manifests(self) -> Iterator[Manifest]:
        """Yields the manifests that are not damaged, the newest first."""
        for step in reversed(self.steps()):
            with contextlib.suppress(DamagedCheckpointError):
                yield self.manifest(step)

    def save(self, state: TrainState, manifest: Manifest) -> None:
        """Starts saving all leaves of the state; returns as soon as it may be donated.

        Raises:
          TrainingDivergedError: A leaf of the state is not finite.
          WriteError: This save or the previous one failed.
        """
        saved = jax.device_get(state)
        for name, leaf in saved_arrays.leaves_by_name(saved).items():
            if not np.isfinite(leaf).all():
                raise TrainingDivergedError(name, "not finite", manifest.step, self.steps())
        with self._writing():
            if self._manager is None:
                self._manager = ocp.CheckpointManager(self._folder, options=_OPTIONS)
            self._delete_superseded()
            manifest = manifest._replace(run_id=self._run_id)
            args = saved_arrays.SaveArgs(state, saved=saved, manifest=manifest)
            self._manager.save(manifest.step, args=args, force=True)

    def restore(self, step: int, target: Any) -> Any:
        """Returns a checkpoint's arrays on the devices, after verifying all of its files.

        `target` is a state or its `jax.eval_shape`; or a part of it: `{"params": params}`.

        Raises:
          DamagedCheckpointError: A file is not what was written.
          UserError: The checkpoint is intact, but does not fit `target`.
        """
        self.manifest(step, verify_files=True)
        folder = self._folder / str(step) / _ITEM
        try:
            restored = saved_arrays.read(folder, target)
        except Exception as error:  # orbax raises errors of any type.
            raise self._incompatible(step, error) from error
        return sharding.put_replicated(restored)

    def read_variables(self, step: int) -> dict[str, Any]:
        """Returns a checkpoint's parameters and other variables, on the host, by their names.

        Raises:
          DamagedCheckpointError: A file is not what was written.
        """
        self.manifest(step, verify_files=True)
        return saved_arrays.read_variables(self._folder / str(step) / _ITEM)

    def restore_newest(self, state: TrainState) -> tuple[TrainState, Manifest | None]:
        """Returns the newest intact checkpoint; if there is none, the given state, and None.

        Moves damaged checkpoints to `<workdir>/damaged/`, with a warning for each.
        """
        restore = functools.cache(lambda step: self.restore(step, state))

        def find_intact() -> int | None:
            for step in reversed(self.steps()):
                try:
                    restore(step)
                except DamagedCheckpointError as error:
                    folder = self._folder / str(step)
                    with self._writing():
                        moved = run_folder.move_into(folder, self._folder.parent / "damaged")
                    terminal.print_warning(f"WARNING: {error}; moved to {moved}")
                else:
                    with self._writing():
                        self._delete_superseded()  # A killed run may have left some.
                    return step
            return None

        step = job.broadcast_from_first(find_intact)
        return (state, None) if step is None else (restore(step), self.manifest(step))

    def _identify_run(self) -> str:
        """Returns the run's id; writes one if there is none: that of the newest checkpoint."""
        run_ids = (manifest.run_id for manifest in self.intact_manifests())
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            return self._run_id or run_folder.write_id(self._folder.parent, next(run_ids, None))

    def _delete_superseded(self) -> None:
        """Deletes all but the newest `keep` checkpoints and the best one."""
        if not job.is_first_process():
            return
        # Renamed first: a kill must not leave a half-deleted folder among the checkpoints.
        deleted = self._folder / "deleted"
        if superseded := set(self.steps()[: -self._keep]):
            deleted.mkdir(exist_ok=True)
            for step in superseded - {best_step(self.intact_manifests())}:
                (self._folder / str(step)).rename(deleted / str(step))
        if deleted.exists():
            shutil.rmtree(deleted)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        # orbax raises errors of any type.
        with writing_to(self._folder, Exception), job.exit_if_process_lost():
            yield

    def _incompatible(self, step: int, reason: Exception) -> UserError:
        return UserError(
            f"{self._folder / str(step)}: the checkpoint of step {step} is intact, but does "
            f"not fit this code or config ({first_line(reason)}); choose another --workdir"
        )


def best_step(manifests: Iterable[Manifest]) -> int | None:
    """Returns the step of the best value by the task's best metric, the newest of equals."""
    rated = [
        (best["value"] if best["mode"] == "max" else -best["value"], manifest.step)
        for manifest in manifests
        if (best := manifest.best)
    ]
    return max(rated)[1] if rated else None

"""The arrays of a checkpoint, saved by orbax and read back before they count as saved."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mnist_jax.runtime import manifest as manifest_lib
from mnist_jax.runtime.manifest import Manifest


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as `params/hidden1/bias`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def read(folder: Path, target: Any) -> Any:
    """Returns `target` with the saved leaves as NumPy arrays, for any number of devices.

    `target` is a tree of arrays, or of their shapes and dtypes; a dict is a part of a state.

    Raises:
      Exception: Of any type: a leaf is missing, left over, or has another shape or dtype.
    """
    handler = ocp.PyTreeCheckpointHandler()
    saved, wanted = leaves_by_name(handler.metadata(folder).tree), leaves_by_name(target)
    if missing := wanted.keys() - saved.keys():
        raise ValueError(f"{min(missing)} is missing")
    if (unknown := saved.keys() - wanted.keys()) and not isinstance(target, dict):
        raise ValueError(f"{min(unknown)} is not part of the state")
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    args = ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
    restored = handler.restore(folder, args=args)
    for name, found in leaves_by_name(restored).items():
        kinds = [f"{x.dtype}{list(x.shape)}" for x in (found, wanted[name])]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{name} is {kinds[0]}, here {kinds[1]}")
    return restored


def read_variables(folder: Path) -> dict[str, Any]:
    """Returns the saved leaves of `params` and `collections` by their paths."""
    tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    parts = {name: tree[name] for name in ("params", "collections") if name in tree}
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parts)
    return leaves_by_name(read(folder, target))


class _Handler(ocp.PyTreeCheckpointHandler):
    """Reads back what was saved and adds the manifest, before orbax commits the folder."""

    async def async_save(self, directory: Any, *, args: "SaveArgs") -> Any:
        self._saved, self._manifest = args.saved, args.manifest
        return await super().async_save(directory, args=args)

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        restored = read(Path(directory), self._saved)
        jax.tree.map(np.testing.assert_array_equal, restored, self._saved)
        manifest_lib.write(Path(directory), self._manifest)


@ocp.args.register_with_handler(_Handler, for_save=True, for_restore=True)
@dataclasses.dataclass(kw_only=True)
class SaveArgs(ocp.args.PyTreeSave):
    """What a `CheckpointManager` saves: the item on the devices."""

    saved: Any  # The same item on the host.
    manifest: Manifest  # Written when the item has been read back.

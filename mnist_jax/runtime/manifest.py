"""The manifest of a checkpoint: what it contains, with a SHA-256 of every file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import UserError, first_line
from mnist_jax.runtime.files import digest_files, open_regular

_NAME = "manifest.json"
_OLD_BEST = "validation_accuracy"


class Manifest(NamedTuple):
    """What a checkpoint contains.

    Attributes:
      step: Completed updates.
      config: The run's config, with the dataset that was really used.
      class_names: Of that dataset, by label.
      image_shape: Shape of one of its inputs.
      image_dtype: Their dtype.
      normalization: See `Dataset.normalization`; so for the images to predict from.
      num_outputs: Of the model; None: as many as there are classes.
      best: The `name` of the task's best metric, its `mode`, "max" or "min", and its `value` on
        the validation split at this step; None where it was not evaluated.
      early_stopping: The best `value` so far, its `step`, and `evals` since; see
        `config.early_stopping_evals`.
      own_code: What `own_code.describe` returned of the user's own `model` and `task`.
      init_from: The `workdir`, `run_id` and `step` of the checkpoint that the run began with,
        and the names in `skipped` that it did not take from it.
      data_digest: SHA-256 of that dataset's examples; "": unknown.
      environment: What it was made with; see `environment`.
      digests: SHA-256 of every file by its path inside the folder; set by `write`.
      run_id: That of `run_folder.read_id`; None if it was saved without one.
      journal_sha256: Of the journal at this step; None if it was saved without one.
    """

    step: int
    config: ConfigDict
    class_names: Sequence[str]
    best: Mapping[str, Any] | None
    early_stopping: Mapping[str, Any] | None = None
    own_code: Mapping[str, Mapping[str, str]] = {}
    init_from: Mapping[str, Any] | None = None
    image_shape: Sequence[int] = (28, 28)  # In version 0.1 all had this one.
    image_dtype: str = "uint8"  # Up to version 0.2, as the next one.
    num_outputs: int | None = None
    normalization: str = ""
    data_digest: str = ""
    environment: Mapping[str, str] = {}
    digests: Mapping[str, str] = {}
    run_id: str | None = None
    journal_sha256: str | None = None


def write(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a folder that has none yet, with the digests of its files."""
    changes = {"config": manifest.config.to_dict(), "digests": digest_files(folder)}
    content = manifest._asdict() | changes
    sealed = {"content": content, "sha256": _digest_json(content)}
    (folder / _NAME).write_text(json.dumps(sealed, indent=1))


def read(folder: Path) -> Manifest:
    """Reads a manifest; `verify_files` checks the other files.

    Raises:
      UserError: The manifest is intact, but this code can't use it.
      Exception: Of any type: the manifest is damaged.
    """
    for path in (folder.parent, folder, folder / _NAME):
        if path.is_symlink():  # It could lead out of the workdir.
            raise ValueError(f"{path.name} is a link")
    with open_regular(folder / _NAME) as file:
        sealed = json.load(file)
    content: dict[str, Any] = sealed["content"]
    if _digest_json(content) != sealed["sha256"]:
        raise ValueError(f"{_NAME} is not what was written")
    if "num_classes" in content:  # Version 0.1 did not name the classes.
        content["class_names"] = [str(i) for i in range(content.pop("num_classes"))]
    if _OLD_BEST in content:  # Up to version 0.2.
        rating = {"name": "accuracy", "mode": "max", "value": content.pop(_OLD_BEST)}
        content["best"] = None if rating["value"] is None else rating
    is_mnist = content["config"]["dataset"] in ("mnist", "mnist_5k")
    content.setdefault("normalization", "mnist" if is_mnist else "")  # As the last one.
    try:
        return Manifest(**content | {"config": config_lib.from_json(content["config"])})
    except (KeyError, TypeError) as error:  # Of another version: other fields.
        raise UserError(f"{_NAME}: {first_line(error)}") from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raises ValueError unless all files are what was written; ignores others: .DS_Store."""
    if changed := manifest.digests.items() - digest_files(folder).items():
        raise ValueError(f"{min(changed)[0]} is not what was written")


def _digest_json(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()

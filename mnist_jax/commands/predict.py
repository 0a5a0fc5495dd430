"""Predicts from image files, or folders of them, with a checkpoint; `-` is a file on stdin.

    mnist-jax predict --workdir DIR [--step latest|best|N] [--member K] [--model FILE.py:NAME]
        [--task FILE.py:NAME] [--json] [--csv FILE] [--show] IMAGE...

Examples:
    mnist-jax predict --workdir runs/mine photo.jpg
    mnist-jax predict --workdir runs/mine --show one.png two.png
    mnist-jax predict --workdir runs/mine --step best --csv predictions.csv photos/
    scanimage --format=png | mnist-jax predict --workdir runs/mine -
"""

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mnist_jax.commands import flags as shared
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import UserError, refusing

for flag in (*shared.CHECKPOINT, shared.JSON, shared.CSV):
    flags.declare_key_flag(flag)

_SHOW = flags.DEFINE_bool(
    "show", False, "Draw the images beside the network's inputs in ./predictions.png."
)

_PAGE = 20  # Images of a file that --show draws.


def main(*image: str) -> None:
    """Prints the prediction for each image; for unreadable ones an error on stderr."""
    from mnist_jax.commands.pictures import create_reader
    from mnist_jax.data.images import UnreadableImageError, open_image, suffixes
    from mnist_jax.data.own_files import list_files
    from mnist_jax.digits.normalize import to_pixels

    model = shared.restore_checkpoint()
    read = create_reader(model)
    images, inputs = list[np.ndarray](), list[np.ndarray]()
    rows, errors = list[dict[str, Any]](), list[dict[str, str]]()
    readable, files = suffixes(), list[str]()
    for name in image:
        if os.path.isdir(name):  # noqa: PTH112 - `Path.is_dir` raises at a long name.
            files += [str(f) for f in list_files(Path(name)) if f.suffix.lower() in readable]
        else:
            files.append(name)
    for file in files:
        try:
            picture = open_image(file)
            array, note = read(picture)
            if _SHOW.value:
                images.append(to_pixels(picture))
            inputs.append(array)
            rows.append({"file": file} | ({"note": note} if note else {}))
        except UnreadableImageError as error:
            errors.append({"file": file, "error": str(error)})
            terminal.print_error(f"{file}: {error}")

    predictions = model.predict(np.stack(inputs)) if inputs else []
    for row, prediction in zip(rows, predictions, strict=True):
        row |= prediction
    shared.write_csv(("file", "prediction", "probability"), rows)
    if shared.JSON.value:
        results = [{k: v for k, v in row.items() if k != "text"} for row in rows]
        shared.print_json(model, images=results, errors=errors)
    else:
        for row in rows:
            print(terminal.printable(f"{row['file']}: {row['text']}"))
            if "note" in row:
                terminal.print_warning(terminal.printable(f"{row['file']}: {row['note']}"))
    if images:
        _show(images, inputs, [f"{Path(row['file']).name}: {row['text']}" for row in rows])
    if errors:
        sys.exit(UserError.exit_code)


def _show(images: list[np.ndarray], inputs: list[np.ndarray], titles: list[str]) -> None:
    """Draws pages `predictions.png`, `predictions-1.png`, ..., under names that are free."""
    from mnist_jax.reporting import figures

    names = itertools.chain(["predictions"], (f"predictions-{n}" for n in itertools.count(1)))
    free = (Path(f"{name}.png") for name in names if not os.path.lexists(f"{name}.png"))
    pages = list(itertools.islice(free, -(-len(images) // _PAGE)))
    for number, path in enumerate(pages):
        page = slice(number * _PAGE, (number + 1) * _PAGE)
        figure = figures.predictions(images[page], inputs[page], titles[page])
        with refusing(path, "go to another folder"):
            figures.save(path, figure)
    print(f"Drawn in {', '.join(map(str, pages))}", file=sys.stderr)

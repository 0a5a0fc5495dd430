"""Classifies image files with a checkpoint; `-` is the file on stdin.

    mnist-jax predict --workdir DIR [--step latest|best|N] [--member K]
        [--json] [--show] IMAGE...

Examples:
    mnist-jax predict --workdir runs/mine photo.jpg
    mnist-jax predict --workdir runs/mine --show one.png two.png
    mnist-jax predict --workdir runs/mine --step best --json *.png
    scanimage --format=png | mnist-jax predict --workdir runs/mine -
"""

import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mnist_jax.commands.flags import JSON, MEMBER, STEP, WORKDIR
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import UserError, refusing

for flag in (WORKDIR, STEP, MEMBER, JSON):
    flags.declare_key_flag(flag)

_SHOW = flags.DEFINE_bool(
    "show", False, "Draw the images beside the network's inputs in ./predictions.png; open it."
)

_PAGE = 20  # Images of a file that --show draws.


def main(*image: str) -> None:
    """Prints the prediction for each image; for unreadable ones an error on stderr."""
    from mnist_jax import restoring
    from mnist_jax.digits import normalize
    from mnist_jax.digits.normalize import UnreadableImageError

    model = restoring.restore(WORKDIR.value, STEP.value, member=MEMBER.value)
    shape = tuple(model.image_shape)
    if shape[2:] not in ((), (3,)):
        raise UserError(f"workdir: the model needs images of {shape[2]} channels, no files")
    # Other images of MNIST's size, such as clothes, are not centred by their mass.
    is_digit = shape == (28, 28) and set("0123456789") <= set(model.class_names)
    images: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    notes: dict[str, str] = {}
    errors: dict[str, str] = {}
    for file in image:
        try:
            pixels = normalize.read_image(file)
            if is_digit:
                inputs[file] = normalize.normalize(pixels)
                if note := normalize.find_doubt(pixels):
                    notes[file] = note
            else:
                inputs[file] = normalize.resize(pixels, shape)
            if _SHOW.value:
                images[file] = pixels
        except UnreadableImageError as error:
            errors[file] = str(error)
            terminal.print_error(f"{file}: {error}")

    probabilities = model.predict(np.stack([*inputs.values()])) if inputs else ()
    predictions = dict(zip(inputs, probabilities, strict=True))
    texts = {f: format_prediction(p, model.class_names) for f, p in predictions.items()}
    if JSON.value:
        report = {
            "workdir": str(model.workdir),
            "step": model.step,
            "member": MEMBER.value,
            "dataset": model.config.dataset,
            "images": [
                {
                    "file": file,
                    "digit": int(p.argmax()),
                    "class": model.class_names[p.argmax()],
                    "probabilities": p.tolist(),
                }
                | ({"note": notes[file]} if file in notes else {})
                for file, p in predictions.items()
            ],
            "errors": [{"file": file, "error": error} for file, error in errors.items()],
        }
        print(json.dumps(report))
    else:
        for file, text in texts.items():
            print(f"{file}: {text}")
            if file in notes:
                terminal.print_warning(f"{file}: {notes[file]}")
    if images:
        titles = [f"{Path(file).name}: {text}" for file, text in texts.items()]
        _show([*images.values()], [*inputs.values()], titles)
    if errors:
        sys.exit(UserError.exit_code)


def format_prediction(probabilities: np.ndarray, class_names: Sequence[str]) -> str:
    """Formats the most probable class, and up to two others of at least 1 %.

    Args:
      probabilities: `float[num_classes]`.
      class_names: By label.
    """
    first, *others = np.argsort(-probabilities, kind="stable")[:3]
    classes = [first, *(label for label in others if probabilities[label] >= 0.01)]
    best, *rest = (f"{class_names[i]} ({probabilities[i]:.1%})" for i in classes)
    return best + (f", or {', '.join(rest)}" if rest else "")


def _show(images: list[np.ndarray], inputs: list[np.ndarray], titles: list[str]) -> None:
    """Draws pages `predictions.png`, `predictions-1.png`, ...; opens the first one."""
    from PIL import Image

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
    if sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        Image.open(pages[0]).show()

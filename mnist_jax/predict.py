"""Classifies image files with the parameters of a checkpoint; `-` is the file on stdin.

    python -m mnist_jax.predict --workdir DIR [--step latest|best|N] [--member K]
        [--json] [--show] IMAGE...

Examples:
    python -m mnist_jax.predict --workdir runs/mine photo.jpg
    python -m mnist_jax.predict --workdir runs/mine --show one.png two.png
    python -m mnist_jax.predict --workdir runs/mine --step best --json *.png
    scanimage --format=png | python -m mnist_jax.predict --workdir runs/mine -
"""

import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mnist_jax.runtime import command, terminal
from mnist_jax.runtime.errors import UserError, refusing

_WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_MEMBER = flags.DEFINE_integer("member", None, "One of several seeds, from 0; else all.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_SHOW = flags.DEFINE_bool(
    "show", False, "Draw the images beside the network's inputs in ./predictions.png; open it."
)

_PAGE = 20  # Images of a file that --show draws.


def main(*files: str) -> None:
    """Prints the prediction for each image; for unreadable ones an error on stderr."""
    from mnist_jax import restoring
    from mnist_jax.digits import normalize
    from mnist_jax.digits.normalize import UnreadableImageError

    model = restoring.restore(_WORKDIR.value, _STEP.value, member=_MEMBER.value)
    shape = tuple(model.image_shape)
    if shape[2:] not in ((), (3,)):
        raise UserError(f"workdir: the model needs images of {shape[2]} channels, no files")
    # Other images of MNIST's size, such as clothes, are not centred by their mass.
    is_digit = shape == (28, 28) and set("0123456789") <= set(model.class_names)
    images: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    notes: dict[str, str] = {}
    errors: dict[str, str] = {}
    for file in files:
        try:
            image = normalize.read_image(file)
            if is_digit:
                inputs[file] = normalize.normalize(image)
                if note := normalize.find_doubt(image):
                    notes[file] = note
            else:
                inputs[file] = normalize.resize(image, shape)
            if _SHOW.value:
                images[file] = image
        except UnreadableImageError as error:
            errors[file] = str(error)
            terminal.print_error(f"{file}: {error}")

    probabilities = model.predict(np.stack([*inputs.values()])) if inputs else ()
    predictions = dict(zip(inputs, probabilities, strict=True))
    texts = {f: format_prediction(p, model.class_names) for f, p in predictions.items()}
    if _JSON.value:
        report = {
            "workdir": str(model.workdir),
            "step": model.step,
            "member": _MEMBER.value,
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


if __name__ == "__main__":
    command.run(main, positional="image")

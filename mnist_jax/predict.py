"""Reads digits from image files with the parameters of a checkpoint.

    python -m mnist_jax.predict --workdir DIR [--step latest|best|N] [--json] [--show] IMAGE...

Examples:
    python -m mnist_jax.predict --workdir runs/mine photo.jpg
    python -m mnist_jax.predict --workdir runs/mine --show one.png two.png
    python -m mnist_jax.predict --workdir runs/mine --step best --json *.png
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from absl import flags

from mnist_jax.runtime import command, terminal
from mnist_jax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_SHOW = flags.DEFINE_bool(
    "show", False, "Draw the images beside the network's inputs in ./predictions.png; open it."
)


def main(*files: str) -> None:
    """Prints the prediction for each image; for unreadable ones an error on stderr."""
    from mnist_jax import restoring
    from mnist_jax.digits.normalize import UnreadableImageError, normalize, read_image

    model = restoring.restore(_WORKDIR.value, _STEP.value)
    images: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    errors: dict[str, str] = {}
    for file in files:
        try:
            image = read_image(file)
            inputs[file] = normalize(image)
            images[file] = image
        except UnreadableImageError as error:
            errors[file] = str(error)
            terminal.print_error(f"{file}: {error}")

    probabilities = model.predict(np.stack([*inputs.values()])) if inputs else ()
    predictions = dict(zip(inputs, probabilities, strict=True))
    if _JSON.value:
        report = {
            "workdir": str(model.workdir),
            "step": model.step,
            "dataset": model.config.dataset,
            "images": [
                {"file": file, "digit": int(p.argmax()), "probabilities": p.tolist()}
                for file, p in predictions.items()
            ],
            "errors": [{"file": file, "error": error} for file, error in errors.items()],
        }
        print(json.dumps(report))
    else:
        for file, p in predictions.items():
            print(f"{file}: {format_prediction(p)}")
    if _SHOW.value and images:
        titles = [
            f"{Path(file).name}: {format_prediction(p)}" for file, p in predictions.items()
        ]
        _show([*images.values()], [*inputs.values()], titles)
    if errors:
        sys.exit(UserError.exit_code)


def format_prediction(probabilities: np.ndarray) -> str:
    """Formats the most probable class, and up to two others of at least 1 %.

    Args:
      probabilities: `float[num_classes]`.
    """
    first, *others = np.argsort(-probabilities, kind="stable")[:3]
    classes = [first, *(label for label in others if probabilities[label] >= 0.01)]
    best, *rest = (f"{label} ({probabilities[label]:.1%})" for label in classes)
    return best + (f", or {', '.join(rest)}" if rest else "")


def _show(images: list[np.ndarray], inputs: list[np.ndarray], titles: list[str]) -> None:
    from PIL import Image

    from mnist_jax.reporting import figures

    path = Path("predictions.png")
    try:
        figures.save(path.parent, {path.stem: figures.predictions(images, inputs, titles)})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; go to another folder") from error
    print(f"Drawn in {path}", file=sys.stderr)
    if sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        Image.open(path).show()


if __name__ == "__main__":
    command.run(main, positional="image")

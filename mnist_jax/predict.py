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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mnist_jax.runtime import command as commands
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_SHOW = flags.DEFINE_bool(
    "show",
    False,
    "Draw each image beside the network's input in ./predictions.png, and open it where there "
    "is a display.",
)
_FIGURE = Path("predictions.png")


def main(*files: str) -> None:
    """Prints the prediction for each image; for unreadable ones an error on stderr."""
    from mnist_jax import restoring
    from mnist_jax.digits.normalize import UnreadableImageError, normalize, read_image

    model = restoring.restore(_WORKDIR.value, _STEP.value)
    images: dict[str, np.ndarray] = {}
    inputs: list[np.ndarray] = []
    errors: dict[str, str] = {}
    for file in dict.fromkeys(files):
        try:
            image = read_image(file)
            inputs.append(normalize(image))
            images[file] = image
        except UnreadableImageError as error:
            errors[file] = str(error)
            terminal.print_error(f"{file}: {error}")

    probabilities = model.predict(np.stack(inputs)) if inputs else ()
    predictions = dict(zip(images, probabilities, strict=True))
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
        _show(list(images.values()), inputs, titles)
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


def _show(
    images: Sequence[np.ndarray], inputs: Sequence[np.ndarray], titles: Sequence[str]
) -> None:
    from mnist_jax.reporting import figures

    try:
        figure = figures.predictions(images, inputs, titles)
        figures.save(_FIGURE.parent, {_FIGURE.stem: figure})
    except OSError as error:
        raise UserError(f"{_FIGURE}: {error.strerror}; go to another folder") from error
    print(f"Drawn in {_FIGURE}", file=sys.stderr)
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if has_display or sys.platform != "linux":
        from PIL import Image

        Image.open(_FIGURE).show()


if __name__ == "__main__":
    commands.run(main, positional="image")

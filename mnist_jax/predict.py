"""Reads digits off image files, with a checkpoint's parameters.

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

from mnist_jax.runtime import command as commands
from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_SHOW = flags.DEFINE_bool(
    "show",
    False,
    "Draw each input beside what the network sees: in ./predictions.png, which is opened "
    "where there is a display.",
)
_PICTURE = Path("predictions.png")


def main(*files: str) -> None:
    """Prints a line for each image; what can't be read has its line on stderr."""
    from mnist_jax import restoring
    from mnist_jax.digits import normalize as digit_images

    model = restoring.restore(_WORKDIR.value, _STEP.value)
    pictures: dict[str, np.ndarray] = {}
    errors: dict[str, str] = {}
    digits = []
    for file in dict.fromkeys(files):
        try:
            pixels = digit_images.read(file)
            digits.append(digit_images.normalize(pixels))
            pictures[file] = pixels
        except digit_images.UnreadableImageError as error:
            errors[file] = str(error)
            terminal.print_error(f"{file}: {error}")

    probabilities = np.zeros((0, 0), np.float32)
    if digits:
        probabilities = model.predict(np.stack(digits))
    if _JSON.value:
        report = {
            "workdir": str(model.workdir),
            "step": model.step,
            "dataset": model.config.dataset,
            "images": [
                {"file": file, "digit": int(p.argmax()), "probabilities": p.tolist()}
                for file, p in zip(pictures, probabilities, strict=True)
            ],
            "errors": [{"file": file, "error": error} for file, error in errors.items()],
        }
        print(json.dumps(report))
    else:
        for file, p in zip(pictures, probabilities, strict=True):
            print(f"{file}: {format_prediction(p)}")
    if _SHOW.value and pictures:
        _show(pictures, digits, probabilities)
    if errors:
        sys.exit(UserError.exit_code)


def format_prediction(probabilities: np.ndarray) -> str:
    """Returns the likeliest class and its probability, then the runners-up from 1 % on."""
    order = np.argsort(-probabilities, kind="stable")[:3]
    first, *others = (f"{label} ({probabilities[label]:.1%})" for label in order)
    rest = [
        text
        for text, label in zip(others, order[1:], strict=True)
        if probabilities[label] >= 0.01
    ]
    return first + (f", or {', '.join(rest)}" if rest else "")


def _show(
    pictures: dict[str, np.ndarray], digits: list[np.ndarray], probabilities: np.ndarray
) -> None:
    from mnist_jax.reporting import figures

    titles = [
        f"{Path(file).name}: {format_prediction(p)}"
        for file, p in zip(pictures, probabilities, strict=True)
    ]
    figure = figures.predictions(list(pictures.values()), digits, titles)
    try:
        figures.save(figures.encode(figures.render(figure)), _PICTURE)
    except OSError as error:
        raise UserError(f"{_PICTURE}: {error.strerror}; go to another folder") from error
    print(f"Drawn in {_PICTURE}", file=sys.stderr)
    if (
        os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
        or sys.platform != "linux"
    ):
        from PIL import Image

        Image.open(_PICTURE).show()


if __name__ == "__main__":
    commands.run(main, positional="image")

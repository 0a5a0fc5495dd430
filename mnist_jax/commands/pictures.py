"""What a model's input is made of: a picture, in the way of the data that it was trained on."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from mnist_jax.data.images import are_pictures, to_input
from mnist_jax.digits.normalize import normalize, to_pixels
from mnist_jax.runtime.errors import UserError


def create_reader(model: Any) -> Callable[[Image.Image], tuple[np.ndarray, str]]:
    """Returns a function that returns a `TrainedModel`'s input, and a note for people or "".

    It raises an UnreadableImageError where a picture can't be used.

    Raises:
      UserError: The model's inputs are no pictures.
    """
    warnings.simplefilter("ignore")  # Of Pillow: damaged metadata, and sizes.
    shape = model.input.shape
    if not are_pictures(model.input):
        form = f"{model.input.dtype}{[*shape]}"
        problem = f"the model's input is {form}, and files are grey or RGB bytes"
        raise UserError(f"workdir: {problem}; use restoring.restore in Python")

    def read(picture: Image.Image) -> tuple[np.ndarray, str]:
        if model.manifest.normalization == "mnist":
            return normalize(to_pixels(picture))
        return to_input(picture, shape[:2], len(shape) > 2, model.config.image_background), ""

    return read

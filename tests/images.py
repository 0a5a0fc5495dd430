"""An image of a digit for the tests that read images."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mnist_jax.data.images import open_image
from mnist_jax.digits.normalize import to_pixels


def draw_seven(size: int = 200, ink: str = "black", background: str = "white") -> Image.Image:
    """Draws a seven with antialiased edges on `size` x `size` pixels."""
    image = Image.new("RGB", (2000, 2000), background)
    points = [(600, 500), (1300, 500), (900, 1600)]
    ImageDraw.Draw(image).line(points, fill=ink, width=140, joint="curve")
    return image.resize((size, size))


def read_image(path: str | Path) -> np.ndarray:
    """Returns the pixels of an image file, as `predict` reads it."""
    return to_pixels(open_image(path))

"""Image files, read in the same way to train on them and to predict."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_jax.runtime.errors import first_line
from mnist_jax.runtime.files import open_regular

_MAX_PIXELS = 100_000_000  # A larger file is more likely an attack on memory than a photo.
# None of them runs another program.
_FORMATS = ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"]
with contextlib.suppress(ImportError):  # Optional: the format of an iPhone's photos.
    import pillow_heif

    pillow_heif.register_heif_opener()
    _FORMATS.append("HEIF")


def suffixes() -> set[str]:
    """Returns the suffixes of the formats that can be read, such as `.png`."""
    formats = Image.registered_extensions()
    return {suffix for suffix in formats if formats[suffix] in _FORMATS}


def are_pictures(inputs: jax.ShapeDtypeStruct) -> bool:
    """Returns whether a model's input, that of one example, is what `to_input` returns."""
    shape = inputs.shape
    return inputs.dtype == np.uint8 and len(shape) > 1 and shape[2:] in ((), (3,))


class UnreadableImageError(ValueError):
    """A file is no image that can be used. The message does not contain the file's name."""


def open_image(path: str | Path | io.BytesIO) -> Image.Image:
    """Decodes an image file, or its content, or `-`, stdin, and turns it upright.

    Raises:
      UnreadableImageError: The file is missing, too large, not an image, or several images.
    """
    try:
        source = sys.stdin.buffer if path == "-" else path
        if isinstance(source, str | Path):
            source = open_regular(source)
        with source as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"too many pixels: reduce it to {_MAX_PIXELS:,}")
            # A phone's JPEG may be an MPO, which also contains a preview.
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise ValueError("contains several images; save the one to read")
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
            return image
    except UnidentifiedImageError as error:
        problem = f"not an image of a known format ({', '.join(_FORMATS)})"
        raise UnreadableImageError(problem) from error
    except Exception as error:  # Pillow's decoders raise errors of any type.
        raise UnreadableImageError(first_line(error)) from error


def is_colour(path: Path) -> bool:
    """Returns whether an image file has colours; reads no more than that needs."""
    with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
        return image.mode not in ("1", "L", "LA")


def to_input(
    image: Image.Image, size: Sequence[int], is_colour: bool, background: int
) -> np.ndarray:
    """Returns `uint8[height, width]`, or `uint8[height, width, 3]`.

    `size` is a height and a width to scale to; (): those of the image. The grey `background`,
    255: white, shows through transparent pixels.
    """
    if image.mode[0] in "IF":  # Pillow would clip them at 255.
        raise UnreadableImageError("has 16 or 32 bits for each channel; save it with 8")
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    image = image.convert("RGB" if is_colour else "L")
    return np.asarray(image.resize((size[1], size[0])) if size else image)

"""Converts an image of a digit to MNIST's form: grey, light on dark, 28x28, centred.

The method is that of MNIST's authors (http://yann.lecun.com/exdb/mnist/): crop the digit,
scale it to 20x20 with its proportions and with antialiasing, and place it in 28x28 with its
centre of mass at the centre. Images of MNIST do not change. First the background of a photo or
a scan is removed, with its shading and dust.
"""

import math

import numpy as np
from PIL import Image
from scipy import ndimage

from mnist_jax.data.images import UnreadableImageError

_SIZE = 28
_BOX = 20
_EDGE = 2  # Pixels around the box that are drawn too: the soft edges of the strokes.

# Larger images are reduced when they are read: the digit becomes 20 pixels large anyway.
_WORKING_SIZE = 256

# A pixel with this fraction of the strongest ink belongs to the digit. With any value up to
# 0.3, the digits of MNIST's images are 20 pixels large. Higher values cut off thin strokes,
# lower values mistake the grain of paper for ink.
_INK = 0.3
_MIN_CONTRAST = 0.08  # Fraction of the range from black to white; a pencil has about 0.2.
_MIN_PART = 0.05  # Dust has less ink than this fraction of the largest stroke's.
_MIN_HEIGHT = 0.2  # Of the image: less is no digit beside what touches the border.
_MAX_SOLIDITY = 0.12  # Area by half its width; that of MNIST's digits is less, of 99.7 %.

_DOUBT = (
    "looks like several digits, a frame or a shadow, or touches the border: crop it to one, "
    "with a margin"
)


def to_pixels(image: Image.Image) -> np.ndarray:
    """Returns `float32[height, width, channels]`, black 0 to white 1, 1 or 3 channels.

    A transparent image gets a contrasting background; one of more than 256 pixels in height or
    width is reduced to 256.
    """
    mode = "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"
    mode = "F" if image.mode[0] in "IF" else mode  # 16, 32 bits: Pillow would clip them at 255.
    image = image if image.mode == mode else image.convert(mode)  # `convert` always copies.
    # An integer factor first: it is cheap, and the copies remain small.
    image = image.reduce(max(1, max(image.size) // _WORKING_SIZE))
    # The value of white may be unknown: a scanner's is 4095.
    white = float(np.asarray(image).max()) or 1 if mode == "F" else 255
    image.thumbnail((_WORKING_SIZE, _WORKING_SIZE))
    pixels = np.atleast_3d(np.asarray(image, np.float32)) / white
    if mode != "RGBA":
        return np.clip(np.nan_to_num(pixels), 0, 1)  # Interpolation overshoots at edges.
    colour, alpha = pixels[:, :, :3], pixels[:, :, 3:]
    mean_colour = (colour * alpha).sum() / max(3 * float(alpha.sum()), 1e-6)
    background = 1.0 if mean_colour < 0.5 else 0.0
    return colour * alpha + background * (1 - alpha)


def normalize(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """Converts an image of one digit on a plain background to MNIST's form.

    Args:
      pixels: `float[height, width, channels]`, black 0 to white 1, any size and any colours.
        Most of the border of the image shows the background.

    Returns:
      `uint8[28, 28]`: the digit light on black, its longer side 20 pixels, its centre of mass
      at the centre, its strongest ink 255. And why the image may not show one digit, or "".

    Raises:
      UnreadableImageError: Nothing is drawn on the image.
    """
    ink, is_doubtful = _find_digit(pixels)
    top, bottom = _find_edges(ink.max(axis=1))
    left, right = _find_edges(ink.max(axis=0))
    scale = max(bottom - top, right - left) / _BOX
    # Faint ink farther away than the soft edges of the strokes is a shadow.
    ink = np.where(ndimage.distance_transform_edt(ink < _INK) <= _EDGE * scale, ink, 0)
    # The corner of the box is placed on a corner of the new pixels. So nothing is interpolated
    # where `scale` is 1, and MNIST's own images do not change.
    size = _BOX + 2 * _EDGE
    before, after = math.ceil(_EDGE * scale), math.ceil((_BOX + _EDGE) * scale)
    padded = Image.fromarray(np.pad(ink, (before, after)).astype(np.float32))
    x, y = (before + edge - _EDGE * scale for edge in (left, top))
    box = x, y, x + size * scale, y + size * scale
    scaled = np.asarray(padded.resize((size, size), Image.Resampling.BICUBIC, box))
    canvas = np.pad(np.clip(scaled, 0, None), _BOX)
    # As in MNIST, the centre of mass of the 28x28 pixels is in [13.5, 14.5).
    centres = ndimage.center_of_mass(canvas)
    top, left = (math.floor(centre + 0.5) - _SIZE // 2 for centre in centres)
    canvas = canvas[top : top + _SIZE, left : left + _SIZE]
    image = np.rint(canvas * (255 / canvas.max())).astype(np.uint8)
    return image, _DOUBT if is_doubtful else ""


def _find_digit(pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns the ink of the digit, and whether the image may show something else, too.

    Dust is left out, and what touches the border, such as a table or a shadow, if there is a
    part inside that is high enough for a digit. So are the soft edges of both.
    """
    ink, is_plain = _extract_ink(np.asarray(pixels, np.float64))
    parts, number = ndimage.label(ink >= _INK, structure=np.ones((3, 3)))
    numbers = np.arange(1, number + 1)
    masses = ndimage.sum_labels(ink, parts, numbers)
    heights = np.array([rows.stop - rows.start for rows, _ in ndimage.find_objects(parts)])
    is_inside = ~np.isin(numbers, parts[_mark_border(ink.shape)])
    if not (is_inside & (heights > _MIN_HEIGHT * len(ink))).any():
        is_inside[:] = True
    is_stroke = masses >= _MIN_PART * masses[is_inside].max()
    is_digit = is_inside & is_stroke
    is_rest = np.concatenate([[False], ~is_digit])[parts]
    around = ndimage.binary_dilation(is_rest, np.ones((3, 3)), iterations=2)
    ink = np.where(around & (is_rest | (ink < _INK)), 0, ink)
    # The parts of a broken digit differ in height, as the bar and the body of a five do.
    is_several = np.count_nonzero(heights[is_digit] > 0.35 * heights[is_digit].max()) > 1
    box = (ink >= _INK)[ndimage.find_objects(np.where(ink >= _INK, 1, 0))[0]]
    depth = ndimage.distance_transform_edt(np.pad(box, 1)).max()
    is_solid = box.sum() * depth > _MAX_SOLIDITY * max(box.shape) ** 3
    is_cut = not is_plain or (is_stroke & ~is_inside).any()
    return ink, bool(is_several or is_solid or is_cut)


def _extract_ink(pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns how far each pixel is from the background towards the ink's colour, from 0 to 1.

    The second value is whether at most a tenth of the border is anything but background.

    Raises:
      UnreadableImageError: There is no ink, or it is as weak as the noise of the background.
    """
    background, share = _fit_background(pixels)
    difference = pixels - background
    distance = np.linalg.norm(difference, axis=2)
    # The ink is the rare and strong side of the background. Its direction in the space of
    # colours is that of the third moment. Pixels on the other side, like gloss, are not ink.
    direction = (difference * distance[:, :, np.newaxis] ** 2).sum(axis=(0, 1))
    length = float(np.linalg.norm(direction)) or 1.0  # Zero where nothing is drawn.
    ink = np.clip(difference @ (direction / length), 0, None)
    # The standard deviation, from the median of the background, if the noise is Gaussian.
    border = distance[_mark_border(distance.shape)]
    noise = 1.4826 * float(np.quantile(border, share / 2))
    peak = float(ink.max())
    if peak < _MIN_CONTRAST * math.sqrt(pixels.shape[2]) or peak < 6 * noise:
        raise UnreadableImageError("nothing is drawn on it, too faintly, or without a margin")
    is_plain = (border < max(0.1 * peak, 3 * noise)).mean() > 0.9
    return np.where(ink < 3 * noise, 0, ink) / peak, bool(is_plain)


def _fit_background(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the background, and the share of the border where it is seen.

    It is a quadratic surface, fitted to the border by iteratively reweighted least squares from
    the median on. The weights fall with the square of the deviation: strokes, a table or a
    shadow that touch the border matter little. Where strokes cover more than a tenth of it, as
    those of a digit cropped to its box, the background is the border's most frequent colour, if
    there is one and the surface explains no more of the border.
    """
    height, width, _ = pixels.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=2)
    border = _mark_border(pixels.shape[:2])
    known, values = terms[border], pixels[border]
    surface = np.zeros((terms.shape[2], values.shape[1]))
    surface[0] = np.median(values, axis=0)
    for _ in range(20):
        residual = np.linalg.norm(values - known @ surface, axis=1)
        weighted = known / np.maximum(residual, 0.03)[:, np.newaxis] ** 2
        # The normal equations are six by six, while the border has thousands of pixels.
        surface = np.linalg.lstsq(weighted.T @ known, weighted.T @ values)[0]
    colours, counts = np.unique(np.rint(255 * values), axis=0, return_counts=True)
    flat = colours[counts.argmax()] / 255
    share = float((np.abs(values - flat).max(axis=1) < 2 / 255).mean())
    distance = np.linalg.norm(pixels - flat, axis=2)
    least = 0.2 * distance.max()
    # Of so few pixels, no colour is certainly that of the background.
    if max(distance.shape) < 16 and np.quantile(distance[border], 0.9) > least:
        raise UnreadableImageError("too small for a digit that fills it: leave a margin")
    is_covered = np.quantile(residual, 0.9) > max(0.1, least)
    if is_covered and share > max(0.15, (residual < 2 / 255).mean()):
        return flat, share
    return terms @ surface, 1.0


def _mark_border(shape: tuple[int, ...]) -> np.ndarray:
    """Marks the outermost fiftieth of the image, `bool[height, width]`."""
    mask = np.ones(shape, bool)
    width = 1 + max(shape) // 50
    mask[width:-width, width:-width] = False
    return mask


def _find_edges(profile: np.ndarray) -> tuple[float, float]:
    """Returns where the digit begins and ends, from the strongest ink of each row or column."""
    first, last = np.flatnonzero(profile >= _INK)[[0, -1]]
    if last - first < 1.2 * _BOX:
        # MNIST's own size or less: such pixels are antialiased already, and remain whole.
        return float(first), last + 1.0
    # Between the pixels: whole pixels would make the box of an image of twice MNIST's size
    # wrong by a quarter of a new pixel.
    return len(profile) - _find_end(profile[::-1]), _find_end(profile)


def _find_end(profile: np.ndarray) -> float:
    """Returns where the profile last falls below `_INK`, interpolated between the pixels."""
    last = np.flatnonzero(profile >= _INK)[-1]
    if last + 1 == len(profile):
        return float(len(profile))
    inside, outside = profile[last : last + 2]
    return last + 0.5 + float((inside - _INK) / (inside - outside))

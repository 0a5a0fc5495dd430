"""Brings a picture of a digit to MNIST's form: grey, light on dark, 28x28, centred.

As MNIST's authors did (LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/): the digit
is cropped, scaled into 20x20 with its proportions kept and with antialiasing, and laid into
28x28 so that its centre of mass is at the centre. An image of MNIST itself comes back as it
was. Before that, what a photo or a scan adds is taken away: the paper, its shade and its dust.
"""

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_jax.runtime.errors import UserError, first_line

SIZE = 28
_BOX = 20
_EDGE = 2  # What is drawn around the box of it: the soft edges of the strokes.

# Larger images are reduced at once: 20 pixels are to come of it.
_WORKING_SIZE = 256
_MAX_PIXELS = 100_000_000  # A larger file is more likely an attack on memory than a photo.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Of the strongest ink: from here on a pixel is the digit's for sure. MNIST's own images have
# a box of 20 with any value up to 0.3; higher ones cut off thin strokes, lower ones take the
# paper's grain for ink.
_INK = 0.3
_MIN_CONTRAST = 0.08  # Of the whole range from black to white: pencil has about 0.2.
_MIN_PART = 0.05  # A stroke apart has more of the ink than this; a speck of dust has less.


class UnreadableImageError(UserError):
    """A file is no image of one digit; the message says why, without the file's name."""


def read(path: str | Path) -> np.ndarray:
    """Decodes an image file, upright, what is transparent laid on a contrasting ground.

    Args:
      path: PNG, JPEG, GIF, BMP, TIFF, WebP or the like, with a single picture.

    Returns:
      `float32[height, width, channels]`, black 0 to white 1, 1 or 3 channels, at most 256
      pixels high and wide: larger ones are reduced.

    Raises:
      UnreadableImageError: It is missing, is no image, holds several, or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of broken metadata, and of sizes: see below.
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise UnreadableImageError(
                        f"{image.width}x{image.height} pixels are too many; reduce it"
                    )
                # A phone's JPEG may be an MPO, which holds its preview too.
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    raise UnreadableImageError("holds several pictures; save the one")
                return _pixels(ImageOps.exif_transpose(image))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(_FORMATS)
        raise UnreadableImageError(f"not an image of a known format ({formats})") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError("too many pixels; reduce it") from error
    except OSError as error:
        raise UnreadableImageError(first_line(error)) from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file.
        raise UnreadableImageError(f"damaged ({first_line(error)})") from error


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode[0] in "IF":  # 16 and 32 bit: Pillow would cut these off at 255.
        pixels = np.asarray(image, np.float32)
        top = float(pixels.max())  # What white is, nobody tells: a scanner's may be 4095.
        pixels = np.clip(np.nan_to_num(pixels / (top or 1)), 0, 1)
        return _reduce(pixels[:, :, np.newaxis])
    factor = max(image.size) // _WORKING_SIZE
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    if factor > 1:
        image = image.reduce(factor)  # Cheap, and before anything is in floating point.
    pixels = _reduce(np.atleast_3d(np.asarray(image, np.float32) / 255))
    if image.mode != "RGBA":
        return pixels
    colour, alpha = pixels[:, :, :3], pixels[:, :, 3:]
    drawn = (colour * alpha).sum() / max(3 * float(alpha.sum()), 1e-6)
    ground = 1.0 if drawn < 0.5 else 0.0
    return colour * alpha + ground * (1 - alpha)


def _reduce(pixels: np.ndarray) -> np.ndarray:
    height, width, _ = pixels.shape
    scale = _WORKING_SIZE / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    box = (0.0, 0.0, float(width), float(height))
    reduced = np.stack([_resize(c, size, box) for c in np.moveaxis(pixels, 2, 0)], axis=2)
    return np.clip(reduced, 0, 1)  # Bicubic overshoots at edges.


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Brings a picture of one digit on a plain ground to MNIST's form.

    Args:
      pixels: `float[height, width, channels]`, black 0 to white 1, any size and colours. The
        ground is what the border shows.

    Returns:
      `uint8[28, 28]`: the digit light on black, its longer side 20 pixels, its centre of mass
      at the centre, its strongest ink 255.

    Raises:
      UnreadableImageError: Nothing is drawn on it.
    """
    ink = _ink(_source(np.asarray(pixels, np.float64)))
    ink, is_digit = _without_dust(ink)
    top, bottom = _edges(ink.max(axis=1), np.any(is_digit, axis=1))
    left, right = _edges(ink.max(axis=0), np.any(is_digit, axis=0))
    scale = max(bottom - top, right - left) / _BOX
    # What is faint and beyond the strokes' soft edges is a shadow's.
    ink = np.where(ndimage.distance_transform_edt(~is_digit) <= _EDGE * scale, ink, 0)
    # The box's corner comes to lie on a corner of the new pixels: where `scale` is 1 nothing
    # is interpolated, and MNIST's own images stay what they are.
    size = _BOX + 2 * _EDGE
    before, after = math.ceil(_EDGE * scale), math.ceil((_BOX + _EDGE) * scale)
    ink = np.pad(ink, (before, after))
    x, y = (before + edge - _EDGE * scale for edge in (left, top))
    scaled = _resize(ink, (size, size), (x, y, x + size * scale, y + size * scale))
    canvas = _window(np.pad(np.clip(scaled, 0, None), _BOX))
    return np.rint(canvas * (255 / canvas.max())).astype(np.uint8)


def _source(pixels: np.ndarray) -> np.ndarray:
    """Undoes an enlargement by nearest neighbour.

    That repeats some rows and columns once more than others, which bends the strokes by up to
    half a pixel: where pixels are few, up to 2 % of MNIST's test images are misread for it.
    It is undone only where nothing is lost by it (a row of each run of equal ones stays) and
    over half of the repeats go by it: an upright stroke has equal rows too.

    Args:
      pixels: `[height, width, channels]`.

    Returns:
      The smallest such picture on which the digit still has 20 pixels, or `pixels`.
    """
    axes = [_runs(np.moveaxis(pixels, axis, 0)) for axis in (0, 1)]
    repeats = sum(map(_repeats, axes))
    if not repeats:
        return pixels
    longer = max(map(len, axes))
    box = max(np.count_nonzero(_drawn(runs)) for runs in axes)
    # No less: it would have to be enlarged again. A box may be short of its share by a pixel.
    for size in range(math.ceil(longer * _BOX / (box + 1)), longer):
        kept = [_nearest(len(runs), size / longer) for runs in axes]
        fewer = [runs[places] for runs, places in zip(axes, kept, strict=True)]
        is_whole = all(
            len(np.unique(runs)) == axis[-1] + 1 for runs, axis in zip(fewer, axes, strict=True)
        )
        if is_whole and 2 * sum(map(_repeats, fewer)) < repeats:
            return pixels[np.ix_(*kept)]
    return pixels


def _runs(rows: np.ndarray) -> np.ndarray:
    """Numbers the runs of equal rows from 0, `int[rows]`."""
    return np.cumsum(np.diff(rows, axis=0, prepend=rows[:1]).any(axis=(1, 2)))


def _drawn(runs: np.ndarray) -> np.ndarray:
    """Marks all rows but those of the first and the last run, which are the ground."""
    return (runs > 0) & (runs < runs[-1])


def _repeats(runs: np.ndarray) -> int:
    """Counts the drawn rows that are as the one before."""
    drawn = runs[_drawn(runs)]
    return len(drawn) - len(np.unique(drawn))


def _nearest(length: int, scale: float) -> np.ndarray:
    """Returns the places of the rows that stay when `length` are reduced by `scale`."""
    size = max(1, round(length * scale))
    return np.floor((np.arange(size) + 0.5) * length / size).astype(int)


def _ink(pixels: np.ndarray) -> np.ndarray:
    """Returns how far each pixel is from the ground towards the ink's colour, `[h, w]`, 0 to 1.

    So it needs no guess whether the digit is dark on light or light on dark.
    """
    away = pixels - _ground(pixels)
    distance = np.linalg.norm(away, axis=2)
    # The ink is the rare and strong side of the ground; its direction in the space of colours
    # is the third moment's. What lies on the other side, gloss for example, is no ink.
    direction = (away * distance[:, :, np.newaxis] ** 2).sum(axis=(0, 1))
    length = float(np.linalg.norm(direction))
    if length == 0:
        raise UnreadableImageError("nothing is drawn on it")
    ink = np.clip(away @ (direction / length), 0, None)
    noise = 1.4826 * float(np.median(distance[_border(distance.shape)]))  # Of a normal one.
    peak = float(ink.max())
    if peak < _MIN_CONTRAST * math.sqrt(pixels.shape[2]) or peak < 6 * noise:
        raise UnreadableImageError("nothing is drawn on it, or too faintly")
    return np.where(ink < 3 * noise, 0, ink) / peak


def _ground(pixels: np.ndarray) -> np.ndarray:
    """Fits the ground by a quadratic surface to the border, where the digit seldom reaches.

    By least absolute deviations (least squares, reweighted), so that strokes which do reach
    it count for little.

    Returns:
      `[height, width, channels]`.
    """
    height, width, _ = pixels.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=2)
    border = _border((height, width))
    known, values = terms[border], pixels[border]
    surface = np.zeros((terms.shape[2], values.shape[1]))
    surface[0] = np.median(values, axis=0)
    for _ in range(10):
        residual = np.linalg.norm(values - known @ surface, axis=1)
        weighted = known / np.maximum(residual, 1e-3)[:, np.newaxis]
        # The normal equations: six by six, where the border has thousands of pixels.
        surface = np.linalg.lstsq(weighted.T @ known, weighted.T @ values)[0]
    return terms @ surface


def _border(shape: tuple[int, ...]) -> np.ndarray:
    """Marks the outermost fiftieth of the image, `bool[height, width]`."""
    mask = np.ones(shape[:2], bool)
    width = 1 + max(shape[:2]) // 50
    mask[width:-width, width:-width] = False
    return mask


def _without_dust(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Removes specks apart from the digit's strokes.

    Returns:
      The ink that stays, and where it is the digit's for sure, `bool[height, width]`.
    """
    is_ink = ink >= _INK
    parts, number = ndimage.label(is_ink, structure=np.ones((3, 3)))
    masses = ndimage.sum_labels(ink, parts, np.arange(1, number + 1))
    is_dust = np.concatenate([[False], masses < _MIN_PART * masses.max()])[parts]
    if not is_dust.any():
        return ink, is_ink
    is_digit = is_ink & ~is_dust
    # A speck's soft edge goes with it.
    around = ndimage.binary_dilation(is_dust, np.ones((3, 3)), iterations=2)
    return np.where(around & ~is_digit, 0, ink), is_digit


def _edges(profile: np.ndarray, is_ink: np.ndarray) -> tuple[float, float]:
    """Returns where the digit begins and ends along one axis, in pixels.

    Args:
      profile: The strongest ink of each row, or of each column.
      is_ink: Where that is the digit's.
    """
    first, last = np.flatnonzero(is_ink)[[0, -1]]
    if last - first < 1.2 * _BOX:
        # MNIST's own size, or less: such pixels are antialiased already, and stay whole.
        return float(first), last + 1.0
    # Between the pixels: by whole ones, the box of an image twice as large as MNIST's would
    # be wrong by a quarter of a new pixel.
    return len(profile) - _end(profile[::-1]), _end(profile)


def _end(profile: np.ndarray) -> float:
    """Returns where the profile last falls below `_INK`, linear between the pixels' centres."""
    last = int(np.flatnonzero(profile >= _INK)[-1])
    if last + 1 == len(profile):
        return float(len(profile))
    inside, outside = profile[last : last + 2]
    return last + 0.5 + float((inside - _INK) / (inside - outside))


def _window(canvas: np.ndarray) -> np.ndarray:
    """Cuts out the 28x28 whose central pixel, (14, 14), the centre of mass lies in.

    As in MNIST: there all centres of mass are in [13.5, 14.5) of the pixels' indices.
    """
    index = np.arange(len(canvas))
    top, left = (
        math.floor(canvas.sum(axis=1 - axis) @ index / canvas.sum() + 0.5) - SIZE // 2
        for axis in (0, 1)
    )
    return canvas[top : top + SIZE, left : left + SIZE]


def _resize(
    channel: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """Scales the box `(left, top, right, bottom)` to `size`, `(width, height)`, antialiased."""
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box), np.float32)

"""Image files: what is read, and what is refused."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_jax.data.images import UnreadableImageError, open_image, to_input
from tests.images import draw_seven


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_an_image_becomes_grey_or_coloured_bytes_of_a_size(mode, tmp_path):
    picture = draw_seven(200, "navy", "ivory").convert(mode)
    picture.save(tmp_path / "seven.tiff")
    image = open_image(tmp_path / "seven.tiff")
    for is_colour, channels in ((False, ()), (True, (3,))):
        pixels = to_input(image, (), is_colour, 255)
        expected = np.asarray(picture.convert("RGB" if is_colour else "L"))
        np.testing.assert_array_equal(pixels, expected, strict=True)
        scaled = to_input(image, (8, 12), is_colour, 255)
        assert (scaled.shape, scaled.dtype) == ((8, 12, *channels), np.uint8)


def write_transparent(path: Path, kind: str) -> None:
    """Writes an opaque black pixel beside a transparent one, which has any colour."""
    pixels = np.array([[[0, 0, 0, 255], [90, 10, 50, 0]]], np.uint8)
    picture = Image.fromarray(np.repeat(pixels, 2, axis=0))
    if kind == "palette":
        picture = Image.fromarray(np.array([[0, 1]] * 2, np.uint8), "P")
        picture.putpalette([0, 0, 0, 90, 10, 50])
    elif kind in ("L", "RGB"):
        picture = picture.convert(kind)
    elif kind != "RGBA":
        picture = picture.convert("RGBA").convert(kind)
    key = {"palette": 1, "L": picture.convert("L").getpixel((1, 0)), "RGB": (90, 10, 50)}
    options = {"transparency": key[kind]} if kind in key else {}
    picture.save(path, **options | ({"lossless": True} if path.suffix == ".webp" else {}))


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("RGBA", s) for s in (".png", ".webp", ".tiff", ".gif")]
    + [(kind, ".png") for kind in ("LA", "PA", "palette", "L", "RGB")]
    + [("palette", ".gif"), ("LA", ".tiff")],
)
def test_the_background_shows_through_transparent_pixels(kind, suffix, tmp_path):
    path = tmp_path / f"image{suffix}"
    if kind == "PA":
        image = Image.fromarray(np.array([[0, 1]] * 2, np.uint8), "P").convert("PA")
        image.putalpha(Image.fromarray(np.array([[255, 0]] * 2, np.uint8)))
    else:
        write_transparent(path, kind)
        image = open_image(path)
    for background in (255, 100):
        grey = to_input(image, (), False, background)
        assert grey.tolist() == [[0, background]] * 2
        colour = to_input(image, (), True, background)
        assert colour.tolist() == [[[0] * 3, [background] * 3]] * 2


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(mode):
    with pytest.raises(UnreadableImageError, match="16 or 32 bits"):
        to_input(Image.new(mode, (2, 2)), (), is_colour=False, background=255)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "No such file"),
        ("folder", "Not a regular file"),
        ("pipe", "Not a regular file"),
        ("text.png", "not an image of a known format"),
        ("empty.png", "not an image of a known format"),
        ("truncated.png", "truncated|damaged"),
        ("drawing.eps", "not an image of a known format"),
        ("film.gif", "several images"),
        ("bomb.png", "exceeds limit"),
        ("large.png", "exceeds limit|too many"),
    ],
)
def test_without_an_image_are_refused(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.png").write_text("seven")
    (tmp_path / "empty.png").touch()
    whole = io.BytesIO()
    draw_seven().save(whole, format="PNG")
    (tmp_path / "truncated.png").write_bytes(whole.getvalue()[:-400])
    draw_seven().save(tmp_path / "drawing.eps")
    frames = [draw_seven(), draw_seven(200, "red")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "bomb.png").write_bytes(png_header(50_000, 50_000))
    (tmp_path / "large.png").write_bytes(png_header(11_000, 10_000))
    with pytest.raises(UnreadableImageError, match=message) as error:
        open_image(tmp_path / name)
    assert "\n" not in str(error.value)


def png_header(width: int, height: int) -> bytes:
    """A file with the header of an image of this size, and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

"""Image files: what is read, and what is refused."""

import io
import os
import zlib

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
        pixels = to_input(image, (), is_colour)
        expected = np.asarray(picture.convert("RGB" if is_colour else "L"))
        np.testing.assert_array_equal(pixels, expected, strict=True)
        scaled = to_input(image, (8, 12), is_colour)
        assert (scaled.shape, scaled.dtype) == ((8, 12, *channels), np.uint8)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(mode):
    with pytest.raises(UnreadableImageError, match="16 or 32 bits"):
        to_input(Image.new(mode, (2, 2)), (), is_colour=False)

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
            ("bomb.png", "too many"),
            ("large.png", "too many"),
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

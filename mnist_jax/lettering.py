"""Text in matplotlib's figures at a twentieth of its cost.

matplotlib lays out and hints every `Text` anew, a millisecond each: most of what a figure with
a number in each of a hundred cells costs. But a letter's outline is the same wherever it is.
"""

import functools
from typing import Any

import numpy as np
from matplotlib import colors, font_manager, ft2font
from matplotlib.backend_bases import RendererBase
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D

_EM = 256  # Pixels: FreeType rounds an outline to 64ths of one.
# Of the height of a digit, which is what alignments refer to. DejaVu Sans: 1493 of 2048.
_DIGIT_HEIGHT = 0.729

_LEFT = {"left": 0.0, "center": 0.5, "right": 1.0}
_BOTTOM = {"baseline": 0.0, "bottom": 0.0, "center": 0.5, "top": 1.0}


class Label(Text):
    """A line of text in matplotlib's own font, DejaVu Sans, unhinted and without kerning.

    Its vertical alignment is that of its digits or capitals.
    """

    def draw(self, renderer: RendererBase, *args: Any, **kwargs: Any) -> None:
        """Fills the outlines of the letters."""
        outline, width = _outline(self.get_text())
        size = float(np.asarray(renderer.points_to_pixels(self.get_fontsize())))
        left = width * _LEFT[self.get_horizontalalignment()]
        bottom = _DIGIT_HEIGHT * _BOTTOM[self.get_verticalalignment()]
        x, y = self.get_transform().transform(self.get_unitless_position())
        place = Affine2D().translate(-left, -bottom).scale(size)
        context = renderer.new_gc()
        context.set_linewidth(0)
        context.set_snap(False)  # Else the 1 would be moved to whole pixels, and not the 2.
        renderer.draw_path(
            context,
            outline,
            place.rotate_deg(self.get_rotation()).translate(x, y),
            colors.to_rgba(self.get_color()),
        )
        context.restore()
        self.stale = False


@functools.lru_cache(1024)
def _outline(text: str) -> tuple[Path, float]:
    """Returns the text's outline and its width, from the origin on; an em is 1."""
    vertices, codes, left = [np.empty((0, 2))], [np.empty(0, np.uint8)], 0.0
    for character in text:
        letter, letter_codes, width = _letter(character)
        vertices.append(letter + np.array((left, 0)))
        codes.append(letter_codes)
        left += width
    return Path(np.concatenate(vertices), np.concatenate(codes)), left


@functools.cache
def _letter(character: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns vertices, codes and width."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    font.set_size(_EM, 72)
    glyph = font.load_char(ord(character), ft2font.LoadFlags.NO_HINTING)
    vertices, codes = font.get_path()
    return vertices / _EM, codes.astype(np.uint8), glyph.linearHoriAdvance / 65536 / _EM

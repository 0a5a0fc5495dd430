"""Panels of matplotlib's figures: what its `Axes` are for, at a tenth of their cost.

Figures are drawn beside the training and at its end, when somebody waits. With axes, ticks,
legends and texts of matplotlib's own, five of them with 270 texts take half a second: each
`Text` is laid out and hinted anew, a millisecond for one, an axes takes five before anything
is in it, and an image is resampled as numbers. A panel is a place and coordinates; a letter's
outline is the same wherever it is; and a pixel of a picture is a rectangle.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager, ft2font
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D, Bbox, BboxTransform, Transform

Looks = dict[str, Any]

SMALL, FONT = 7, 8  # Points.
_LINE = 0.155  # Inches between two lines of a legend.
_GRID: Looks = {"color": "#777777", "alpha": 0.4, "lw": 0.5}


class Panel:
    """A part of a figure with coordinates of its own.

    Attributes:
      x: The coordinates at its left and right.
      y: Those at its bottom and top.
      width: In inches.
      height: In inches.
    """

    def __init__(
        self,
        figure: Figure,
        margins: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
    ):
        """Draws nothing yet.

        Args:
          figure: Where it is.
          margins: Left, bottom, right and top, in inches.
          x: See above.
          y: See above; what is drawn must be within both, else it is seen beside the panel.
        """
        left, bottom, right, top = margins
        width, height = figure.get_size_inches()
        self.x, self.y = x, y
        self.width, self.height = width - left - right, height - bottom - top
        box = Bbox.from_bounds(left, bottom, self.width, self.height)
        limits = Bbox([(x[0], y[0]), (x[1], y[1])])
        self._figure = figure
        self._place = BboxTransform(limits, box) + figure.dpi_scale_trans

    def _inches(self, dx: float, dy: float) -> np.ndarray:
        """Returns a distance to the right and up, in inches, in the panel's coordinates."""
        scale = (self.x[1] - self.x[0]) / self.width, (self.y[1] - self.y[0]) / self.height
        return np.multiply(scale, (dx, dy))

    def picture(self, pixels: np.ndarray) -> None:
        """Fills the panel with `uint8[height, width, 4]`, red, green, blue and opacity."""
        self._figure.add_artist(Picture(self._place, self.x, self.y, pixels))

    def line(self, x: Sequence[float], y: Sequence[float], looks: Looks) -> None:
        """Draws a line through points, and perhaps markers on them."""
        self._figure.add_artist(Line2D(x, y, transform=self._place, **looks))

    def stairs(self, values: np.ndarray, edges: np.ndarray, looks: Looks) -> None:
        """Draws bars from 0 to each value, one between each two edges."""
        patch = StepPatch(values, edges, fill=True, lw=0, transform=self._place, **looks)
        self._figure.add_artist(patch)

    def write(self, x: float, y: float, text: str, size: float = SMALL, **looks: Any) -> None:
        """Writes a line of text; see `Label`."""
        self._figure.add_artist(Label(self._place, x, y, text, size, **looks))

    def grid(self, x_ticks: Sequence[float], *, x_labels: bool = True) -> None:
        """Draws a frame, lines at the ticks, those of y at round numbers, and the numbers."""
        (left, right), (bottom, top) = self.x, self.y
        y_ticks = ticks(bottom, top)
        lines = [[(x, bottom), (x, top)] for x in x_ticks]
        lines += [[(left, y), (right, y)] for y in y_ticks]
        self._figure.add_artist(LineCollection(lines, transform=self._place, **_GRID))
        looks: Looks = {"fill": False, "lw": 0.8, "transform": self._place}
        frame = Rectangle((left, bottom), right - left, top - bottom, **looks)
        self._figure.add_artist(frame)
        dx, dy = self._inches(0.04, 0.05)
        for x in x_ticks if x_labels else ():
            self.write(x, bottom - dy, f"{x:g}", ha="center", va="top")
        for y in y_ticks:
            self.write(left - dx, y, f"{y:g}", ha="right", va="center")

    def name(self, y: str, x: str = "", *, apart: float = 0.36) -> None:
        """Writes what the axes are of, beside numbers; that of y so many inches apart."""
        dx, dy = self._inches(apart, 0.3)
        middle = sum(self.x) / 2, sum(self.y) / 2
        self.write(self.x[0] - dx, middle[1], y, FONT, ha="center", rotation=90)
        self.write(middle[0], self.y[0] - dy, x, FONT, ha="center")

    def legend(self, left: float, entries: Sequence[tuple[str, Looks]]) -> None:
        """Tells at the top, from `left` inches on, what each kind of line is."""
        dx, _ = self._inches(0.05, 0)
        for number, (text, looks) in enumerate(entries):
            right, up = self._inches(left, -(number + 0.6) * _LINE)
            x, y = self.x[0] + right, self.y[1] + up
            points = [x + dx, x + 3 * dx, x + 5 * dx]
            self.line(points, [y] * 3, looks | {"markevery": [1]})
            self.write(x + 6 * dx, y, text, va="center")


def ticks(low: float, high: float) -> list[float]:
    """Returns at most five round numbers from low to high."""
    return [x for x in MaxNLocator(4).tick_values(low, high) if low <= x <= high]


class Picture(Artist):
    """An image without smoothing.

    Attributes:
      pixels: `uint8[height, width, 4]`, from the upper left on.
    """

    def __init__(
        self,
        place: Transform,
        x: tuple[float, float],
        y: tuple[float, float],
        pixels: np.ndarray,
    ):
        """Says what fills which box, `x` and `y` in the coordinates of `place`."""
        super().__init__()
        self.set_transform(place)
        self._box = Bbox([(x[0], y[0]), (x[1], y[1])])
        self.pixels = pixels

    def draw(self, renderer: RendererBase) -> None:
        """Gives each pixel of the figure the one of the image that it lies in."""
        box = self.get_window_extent()
        height, width = round(box.height), round(box.width)
        rows = np.arange(height - 1, -1, -1) * len(self.pixels) // height  # From below.
        columns = np.arange(width) * self.pixels.shape[1] // width
        context = renderer.new_gc()
        colours = self.pixels.view(np.uint32)[:, :, 0]  # Four bytes move as fast as one.
        pixels = colours[np.ix_(rows, columns)].view(np.uint8).reshape(height, width, 4)
        renderer.draw_image(context, round(box.x0), round(box.y0), pixels)
        context.restore()

    def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
        """Returns where it is, in pixels of the figure."""
        return Bbox(self.get_transform().transform(self._box))


class Label(Artist):
    """A line of text in matplotlib's own font, DejaVu Sans, unhinted and without kerning."""

    zorder = 3

    def __init__(
        self,
        place: Transform,
        x: float,
        y: float,
        text: str,
        size: float = FONT,
        *,
        ha: str = "left",
        va: str = "bottom",
        rotation: float = 0,
        color: str = "black",
    ):
        """Says what is to be drawn.

        Args:
          place: From x and y to pixels.
          x: Of the point that it is aligned to.
          y: Likewise.
          text: May be empty.
          size: In points.
          ha: Which part of it lies at x: its `left`, `center` or `right`.
          va: Which part of its digits or capitals lies at y: `bottom`, `center` or `top`.
          rotation: Around the point, in degrees.
          color: Any of matplotlib's.
        """
        super().__init__()
        self.set_transform(place)
        self.text, self.size = text, size
        self._outline, self._width = _outline(text)
        self._point, self._rotation, self._color = (x, y), rotation, color
        self._left = {"left": 0.0, "center": 0.5, "right": 1.0}[ha] * self._width
        self._bottom = {"bottom": 0.0, "center": 0.5, "top": 1.0}[va] * _digit_height()

    def _to_pixels(self) -> Affine2D:
        figure = self.get_figure(root=True)
        assert figure is not None
        return (
            Affine2D()
            .translate(-self._left, -self._bottom)
            .scale(self.size * figure.dpi / 72)
            .rotate_deg(self._rotation)
            .translate(*self.get_transform().transform(self._point))
        )

    def draw(self, renderer: RendererBase) -> None:
        """Fills the outlines of the letters."""
        context = renderer.new_gc()
        context.set_linewidth(0)
        context.set_snap(False)  # Else the 1 would be moved to whole pixels, and not the 2.
        renderer.draw_path(context, self._outline, self._to_pixels(), to_rgba(self._color))
        context.restore()

    def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
        """Returns where it is, in pixels: the line's width, a digit's height."""
        box = Bbox([(0, 0), (self._width, _digit_height())])
        return Bbox.null() if not self.text else Bbox(box.transformed(self._to_pixels()))


_EM = 256  # Pixels: FreeType rounds an outline to 64ths of one.


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


@functools.cache
def _digit_height() -> float:
    return float(_letter("1")[0][:, 1].max())

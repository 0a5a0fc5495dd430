"""An image of a digit for the tests that read images."""

from PIL import Image, ImageDraw


def draw_seven(size: int = 200, ink: str = "black", background: str = "white") -> Image.Image:
    """Draws a seven with antialiased edges on `size` x `size` pixels."""
    image = Image.new("RGB", (2000, 2000), background)
    points = [(600, 500), (1300, 500), (900, 1600)]
    ImageDraw.Draw(image).line(points, fill=ink, width=140, joint="curve")
    return image.resize((size, size))

"""Short texts in figures, in the font that Pillow carries, so that figures look the same everywhere.

The font holds ASCII and a few signs. Accents are dropped from Latin letters and the commonest signs are spelt in
ASCII; every other character, such as Korean or an emoji, appears as an empty box. Where the full text matters, it
stands in the report beside the figure.
"""

import math
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_ELLIPSIS = "…"
_SPELT = str.maketrans(
    {"\N{MULTIPLICATION SIGN}": "x", "\N{RIGHTWARDS ARROW}": "->", "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"}
)
_INK = (32, 32, 32)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def line_height(size: int) -> int:
    """Pixels from one line to the next for a font of ``size`` pixels."""
    return math.ceil(size * 1.3)


def text_width(text: str, size: int) -> int:
    """Pixels that one line of ``text`` takes."""
    return math.ceil(_font(size).getbbox(_drawable(text))[2])


def shorten(text: str, size: int, width: int) -> str:
    """``text`` if it fits into ``width`` pixels, else its beginning and end around an ellipsis; empty if none fits."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, -1, -1):
        tail = kept // 2
        short = text[: kept - tail] + _ELLIPSIS + text[len(text) - tail :]
        if text_width(short, size) <= width:
            return short
    return ""


def draw_lines(
    canvas: NDArray[np.uint8], text: str, size: int, box: tuple[int, int, int, int], centred: bool = False
) -> None:
    """Draw ``text`` on ``canvas`` uint8 (H, W, 3), in place and never outside ``box``.

    Args:
        canvas: the image to draw on.
        text: lines separated by newlines; lines too long are shortened and lines too many are left out.
        size: of the font, in pixels.
        box: left, top, width and height in pixels; the lines are centred in its height.
        centred: centre each line in the width too; else it begins at the left.
    """
    left, top, width, height = box
    patch = Image.fromarray(canvas[top : top + height, left : left + width])
    draw = ImageDraw.Draw(patch)
    lines = text.split("\n")[: height // line_height(size)]
    y = (height - len(lines) * line_height(size)) // 2
    for line in lines:
        short = shorten(line, size, width)
        x = (width - text_width(short, size)) // 2 if centred else 0
        draw.text((x, y), _drawable(short), fill=_INK, font=_font(size))
        y += line_height(size)
    canvas[top : top + height, left : left + width] = np.asarray(patch)


def _drawable(text: str) -> str:
    letters = unicodedata.normalize("NFD", text.translate(_SPELT))
    plain = unicodedata.normalize("NFC", "".join(c for c in letters if not unicodedata.combining(c)))
    return "".join(c if c.isprintable() else " " for c in plain)

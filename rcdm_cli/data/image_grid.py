"""Grids of images with labels as one image, for papers. Pixel values are shown unchanged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.image_file import Pixels

CELL = 96
"""Images smaller than this many pixels are enlarged by a whole factor."""
_MARGIN, _TEXT, _LABEL_WIDTH = 4, 14, 240
"""Pixels between images, size of the font, and largest width of row labels. Groups are five margins apart."""
_LINE = math.ceil(1.3 * _TEXT)
_WHITE, _INK = 255, (32, 32, 32)

# The font of matplotlib has no Chinese, Japanese and Korean characters.
_CJK_FONTS = (
    *("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo"),
    *("Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS"),
)


@dataclass(frozen=True)
class GridRow:
    """Images side by side with a label on the left.

    Attributes:
        images: uint8 (H, W, 3) each; None is an empty cell.
        label: lines of text, separated by newlines.
    """

    images: Sequence[Pixels | None]
    label: str = ""


@dataclass(frozen=True)
class GridGroup:
    """Neighbouring columns under one header."""

    label: str
    columns: int


@dataclass(frozen=True)
class PixelGrid:
    """Rows of images of one size.

    Attributes:
        rows: rows from the top. A short row ends with empty cells.
        groups: headers from the left. Together they cover all columns.
    """

    rows: Sequence[GridRow]
    groups: Sequence[GridGroup]


def draw_grid(content: PixelGrid) -> Pixels:
    """Draw a grid as one image on white.

    Labels that are too long are shortened in the middle.

    Returns:
        uint8 (height, width, 3).

    Raises:
        InputError: The grid has no image, images of several sizes, or groups that do not cover the columns.
    """
    rows, groups = content.rows, content.groups
    shapes = {image.shape for row in rows for image in row.images if image is not None}
    if len(shapes) != 1:
        given = ", ".join(str(shape) for shape in sorted(shapes)) or "none"
        raise InputError(f"All images of a grid must have one size (H, W, 3), not {given}.")
    columns = max(len(row.images) for row in rows)
    if sum(group.columns for group in groups) != columns:
        given = " + ".join(str(group.columns) for group in groups)
        raise InputError(f"The groups of a grid cover {given} columns, but the rows have {columns}.")

    [(height, width, _)] = shapes
    scale = max(1, -(-CELL // height))
    height, width = height * scale, width * scale
    label_width = min(_LABEL_WIDTH, max(_text_width(line) for row in rows for line in _lines(row.label)))
    left = _MARGIN + (label_width + 2 * _MARGIN if label_width else 0)
    lefts: list[int] = []
    for group in groups:
        lefts += [left + column * (width + _MARGIN) for column in range(group.columns)]
        left = lefts[-1] + width + 5 * _MARGIN
    header = max(_height(group.label) for group in groups)
    heights = [max(height, _height(row.label)) for row in rows]
    top = _MARGIN + (header + _MARGIN if header else 0)

    canvas = np.full((top + sum(heights) + _MARGIN * len(rows), lefts[-1] + width + _MARGIN, 3), _WHITE, np.uint8)
    first = 0
    for group in groups:
        span = group.columns * (width + _MARGIN) - _MARGIN
        _draw_text(canvas, group.label, (lefts[first], _MARGIN, span, header), centred=True)
        first += group.columns
    for row, row_height in zip(rows, heights, strict=True):
        _draw_text(canvas, row.label, (_MARGIN, top, label_width, row_height))
        y = top + (row_height - height) // 2
        for x, image in zip(lefts, row.images, strict=False):
            if image is not None:
                canvas[y : y + height, x : x + width] = image.repeat(scale, axis=0).repeat(scale, axis=1)
        top += row_height + _MARGIN
    return canvas


def font_families() -> list[str]:
    """Return the font families for figures: the font of matplotlib, then the installed CJK fonts."""
    return ["DejaVu Sans", *(name for name in _CJK_FONTS if name in _installed())]


@cache
def _installed() -> frozenset[str]:
    return frozenset(font.name for font in font_manager.fontManager.ttflist)


@cache
def _fonts() -> list[tuple[ImageFont.FreeTypeFont, frozenset[int]]]:
    """Return fonts with the set of characters of each font."""
    paths = [font_manager.findfont(family) for family in font_families()]
    return [(ImageFont.truetype(path, _TEXT), frozenset(FT2Font(path).get_charmap())) for path in paths]


def _font_of(text: str) -> ImageFont.FreeTypeFont:
    """Return the font with the most characters of ``text``."""
    return max(_fonts(), key=lambda font: sum(ord(character) in font[1] for character in text))[0]


def _lines(label: str) -> list[str]:
    """Split a label into lines, with spaces for characters without a glyph: control characters and lone surrogates."""
    return ["".join(c if c.isprintable() else " " for c in line) for line in label.split("\n")]


def _height(label: str) -> int:
    return _LINE * len(_lines(label)) if label else 0


def _text_width(text: str) -> int:
    return math.ceil(_font_of(text).getlength(text))


def _shorten(text: str, width: int) -> str:
    """Return ``text``, or the beginning and the end around an ellipsis, at most ``width`` pixels wide."""
    if _text_width(text) <= width:
        return text
    for count in range(len(text) - 1, -1, -1):
        tail = count // 2
        short = text[: count - tail] + "…" + text[len(text) - tail :]
        if _text_width(short) <= width:
            return short
    return ""


def _draw_text(canvas: Pixels, text: str, box: tuple[int, int, int, int], centred: bool = False) -> None:
    """Draw lines of text in place and inside ``box``: left, top, width and height in pixels."""
    left, top, width, height = box
    patch = Image.fromarray(canvas[top : top + height, left : left + width])
    draw = ImageDraw.Draw(patch)
    lines = _lines(text)[: height // _LINE]
    y = (height - len(lines) * _LINE) // 2
    for line in lines:
        short = _shorten(line, width)
        x = (width - _text_width(short)) // 2 if centred else 0
        draw.text((x, y), short, fill=_INK, font=_font_of(short))
        y += _LINE
    canvas[top : top + height, left : left + width] = np.asarray(patch)

"""Where charts are drawn as figures: smooth lines and shapes, and text in the font that figures have."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import dist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rcdm_cli.report.text import draw_lines, line_height, text_width

COLOURS = ("#0072b2", "#d55e00", "#00805c", "#aa4499", "#9a6700", "#2a9fc9", "#6b3fa0")
"""Of series: those of ``page.css`` on light paper."""
GRIDLINE, AXIS = "#d9d9e0", "#5c5c66"

SIZE = 13
"""Of the font, in pixels of the layout."""
LINE = 17
"""From one line of text to the next."""

_SCALE = 2
"""Pixels of the figure for one of the layout, so that it is sharp on paper."""
_SMOOTH = 3
"""Shapes are drawn so many times larger and shrunk, which smooths their edges."""

Point = tuple[float, float]


class Canvas:
    """White paper, measured in pixels of a layout from the top left.

    Args:
        width: of the paper.
        height: of the paper.
    """

    def __init__(self, width: float, height: float) -> None:
        size = (round(width * _SCALE) * _SMOOTH, round(height * _SCALE) * _SMOOTH)
        self._image = Image.new("RGB", size, "white")
        self._texts: list[tuple[str, float, float, str]] = []

    def line(self, points: Sequence[Point], colour: str, width: float = 1, dash: Sequence[float] = ()) -> None:
        """Draw from point to point; ``dash`` is the lengths of strokes and gaps in turn, none for a whole line."""
        pen, wide = ImageDraw.Draw(self._image), round(width * _SCALE * _SMOOTH)
        for piece in _dashed(points, dash) if dash else [points]:
            pen.line([_large(point) for point in piece], colour, wide, joint="curve")

    def shape(self, corners: Sequence[Point], colour: str, opacity: float = 1) -> None:
        """Fill a polygon."""
        points = [_large(point) for point in corners]
        left, top = (int(min(axis)) for axis in zip(*points, strict=True))
        right, bottom = (int(max(axis)) + 1 for axis in zip(*points, strict=True))
        # Of the shape's own size: one of the paper's would take longer than all the rest.
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in points], round(255 * opacity))
        self._image.paste(colour, (left, top), mask)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        """Fill a circle."""
        ends = [_large((x - radius, y - radius)), _large((x + radius, y + radius))]
        ImageDraw.Draw(self._image).ellipse(ends, colour)

    def text(self, text: str, x: float, y: float, anchor: Literal["start", "middle", "end"] = "start") -> None:
        """Write one line whose start, middle or end is at ``x`` and whose middle is at height ``y``."""
        self._texts.append((text, x, y, anchor))

    def pixels(self) -> NDArray[np.uint8]:
        """The figure, uint8 (H, W, 3)."""
        canvas = np.array(self._image.reduce(_SMOOTH))
        size = SIZE * _SCALE
        for text, x, y, anchor in self._texts:
            wide = text_width(text, size)
            left = x * _SCALE - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            top = y * _SCALE - line_height(size) / 2
            draw_lines(canvas, text, size, (max(round(left), 0), max(round(top), 0), wide, line_height(size)))
        return canvas


def width_of(text: str) -> float:
    """Pixels of the layout that ``text`` takes."""
    return text_width(text, SIZE * _SCALE) / _SCALE


def _large(point: Point) -> Point:
    return point[0] * _SCALE * _SMOOTH, point[1] * _SCALE * _SMOOTH


def _dashed(points: Sequence[Point], dash: Sequence[float]) -> Iterator[list[Point]]:
    """The strokes of a line through ``points``; the pattern goes on around corners."""
    turn, left = 0, dash[0]
    for start, end in pairwise(points):
        length, done = dist(start, end), 0.0
        while done < length:
            step = min(left, length - done)
            if turn % 2 == 0:
                ends = (done / length, (done + step) / length)
                yield [tuple(a + (b - a) * share for a, b in zip(start, end, strict=True)) for share in ends]  # type: ignore[misc]
            done, left = done + step, left - step
            if left <= 0:
                turn += 1
                left = dash[turn % len(dash)]

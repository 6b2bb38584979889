"""A heat map as a figure: the same numbers as on the page, for a talk or a paper."""

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.report.colour import colour_map, legend
from rcdm_cli.report.elements import HeatMap
from rcdm_cli.report.grid import beside
from rcdm_cli.report.text import draw_lines, line_height, text_width

_MARGIN = 6
_BLOCK = 28
"""Height of a cell's colour in pixels; its number stands below it."""


def draw_heat_map(heat: HeatMap, text: int = 14) -> NDArray[np.uint8]:
    """The cells in the colours of ``colour_map``, a number below each, and the legend: uint8 (H, W, 3).

    Args:
        heat: rows, columns and values; a cell of None stays white.
        text: size of the font in pixels.
    """
    line = line_height(text)
    left = 2 * _MARGIN + max(text_width(row, text) for row in heat.rows)
    cell = _MARGIN + max(text_width(name, text) for name in (*heat.columns, "-0.000"))
    high = _BLOCK + line + _MARGIN
    top = line + 2 * _MARGIN
    canvas = np.full((top + high * len(heat.rows), left + cell * len(heat.columns) + _MARGIN, 3), 255, np.uint8)
    for c, column in enumerate(heat.columns):
        draw_lines(canvas, column, text, (left + cell * c, _MARGIN, cell, line), centred=True)
    for r, (row, values) in enumerate(zip(heat.rows, heat.values, strict=True)):
        y = top + high * r
        draw_lines(canvas, row, text, (_MARGIN, y, left - _MARGIN, _BLOCK))
        for c, value in enumerate(values):
            if value is not None:
                x = left + cell * c
                share = (value - heat.low) / (heat.high - heat.low)
                canvas[y : y + _BLOCK, x + 2 : x + cell - 2] = colour_map(np.array([[share]]))[0, 0]
                draw_lines(canvas, f"{value:.2f}", text, (x, y + _BLOCK, cell, line), centred=True)
    return beside([canvas, legend(max(len(canvas), 160), heat.low, heat.high, heat.title)])

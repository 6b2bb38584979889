"""A dot chart as a figure: the same numbers as on the page, for a talk or a paper."""

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.report.canvas import AXIS, COLOURS, GRIDLINE, LINE, Canvas, width_of
from rcdm_cli.report.dot_chart import SHAPES
from rcdm_cli.report.dot_layout import MARGIN, TOP, Mark, dot_layout
from rcdm_cli.report.elements import DotChart

_HEAD = LINE + 8
"""Height of the title."""


def draw_dots(chart: DotChart) -> NDArray[np.uint8]:
    """Title, rows, axis, marks with their intervals, and the legend: uint8 (H, W, 3)."""
    layout = dot_layout(chart)
    names = [series.name for series in chart.series]
    width = max(layout.width, width_of(chart.title) + 2 * MARGIN, *(48 + width_of(name) + MARGIN for name in names))
    legend = _HEAD + layout.height
    canvas = Canvas(width, legend + LINE * len(names) + MARGIN)
    canvas.text(chart.title, MARGIN, _HEAD / 2)
    bottom = _HEAD + layout.bottom
    for x, text in layout.ticks:
        canvas.line([(x, _HEAD + TOP), (x, bottom)], GRIDLINE)
        canvas.text(text, x, bottom + 14, "middle")
    if layout.zero is not None:
        canvas.line([(layout.zero, _HEAD + TOP), (layout.zero, bottom)], AXIS)
    for y, name in layout.rows:
        canvas.text(name, layout.left - MARGIN, _HEAD + y, "end")
    canvas.text(chart.x_label, (layout.left + layout.ticks[-1][0]) / 2, bottom + 34, "middle")
    for mark in layout.marks:
        _draw(canvas, mark._replace(y=_HEAD + mark.y))
    for number, name in enumerate(names):
        y = legend + LINE * (number + 0.5)
        _draw(canvas, Mark(number, y, 24, MARGIN, 40, name))
        canvas.text(name, 48, y)
    return canvas.pixels()


def _draw(canvas: Canvas, mark: Mark) -> None:
    colour = COLOURS[mark.series % len(COLOURS)]
    canvas.line([(mark.low, mark.y), (mark.high, mark.y)], colour, 2)
    if shape := SHAPES[mark.series % len(SHAPES)]:
        canvas.shape([(mark.x + across, mark.y + down) for across, down in shape], colour)
    else:
        canvas.dot(mark.x, mark.y, 4.5, colour)

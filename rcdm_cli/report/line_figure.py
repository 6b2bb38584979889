"""A line chart as a figure: the same numbers as on the page, for a talk or a paper."""

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.report.canvas import AXIS, COLOURS, GRIDLINE, LINE, Canvas, width_of
from rcdm_cli.report.elements import LineChart
from rcdm_cli.report.line_chart import DASHES, HEIGHT, RIGHT, TOP, WIDTH, line_layout

_HEAD = 2 * LINE + 8
"""Height of the title and of what stands along the y axis."""
_DASHES: tuple[tuple[float, ...], ...] = ((), (8, 4), (2, 4), (10, 4, 2, 4))
"""Those of ``page.css``."""


def draw_line_chart(chart: LineChart) -> NDArray[np.uint8]:
    """Title, axes, lines with their intervals as bands, and the legend: uint8 (H, W, 3)."""
    layout = line_layout(chart)
    width = max([WIDTH, width_of(chart.title) + 16, *(60 + width_of(line.name) for line in chart.lines)])
    canvas = Canvas(width, _HEAD + HEIGHT + LINE * len(chart.lines) + 8)
    canvas.text(chart.title, 8, LINE / 2 + 4)
    canvas.text(chart.y_label, 8, LINE * 1.5 + 4)

    def place(x: float, y: float) -> tuple[float, float]:
        return layout.x(x), _HEAD + layout.y(y)

    right, bottom = WIDTH - RIGHT, _HEAD + layout.bottom
    for tick in layout.y_ticks:
        y = _HEAD + layout.y(tick)
        canvas.line([(layout.left, y), (right, y)], GRIDLINE)
        canvas.text(f"{tick:g}", layout.left - 8, y, "end")
    canvas.line([(layout.left, _HEAD + TOP), (layout.left, bottom), (right, bottom)], AXIS)
    for tick in layout.x_ticks:
        x = layout.x(tick)
        canvas.line([(x, bottom), (x, bottom + 5)], AXIS)
        canvas.text(f"{tick:g}", x, bottom + 15, "middle")
    canvas.text(chart.x_label, (layout.left + right) / 2, bottom + 36, "middle")
    for number, line in enumerate(chart.lines):
        if line.low:
            upper = [place(x, y) for x, y in zip(line.x, line.high, strict=True)]
            lower = [place(x, y) for x, y in zip(line.x, line.low, strict=True)]
            canvas.shape([*upper, *lower[::-1]], COLOURS[number % len(COLOURS)], 0.15)
    for number, line in enumerate(chart.lines):
        y = _HEAD + HEIGHT + LINE * (number + 0.5)
        canvas.text(line.name, 52, y)
        colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number % DASHES]
        points = [place(x, value) for x, value in zip(line.x, line.y, strict=True)]
        canvas.line(points, colour, 2, dash)
        canvas.line([(8, y), (44, y)], colour, 2, dash)
        for across, down in (*points, (26, y)):
            canvas.dot(across, down, 3, colour)
    return canvas.pixels()

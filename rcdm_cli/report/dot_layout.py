"""Where the marks of a dot chart stand, for the drawing on the page and the one as a figure."""

from dataclasses import dataclass
from typing import NamedTuple

from rcdm_cli.report.axis import text_width, ticks
from rcdm_cli.report.elements import DotChart

PLOT = 460
"""Pixels of the axis."""
STEP, GAP, TOP, BOTTOM, MARGIN = 16, 10, 10, 46, 8
"""Pixels: between series of a row; between rows; above, below and beside everything."""


class Mark(NamedTuple):
    """A value and its interval: the series, the height, where value and bounds stand, and what it says."""

    series: int
    y: float
    x: float
    low: float
    high: float
    said: str


@dataclass(frozen=True)
class DotLayout:
    """Places in pixels from the top left.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        left: where the plot begins; row names end a margin before it.
        bottom: where it ends.
        ticks: place and text of each.
        rows: height of the middle and name of each.
        marks: of every series and row.
        zero: where 0 stands, for a chart that shows it.
    """

    width: float
    height: float
    left: float
    bottom: float
    ticks: list[tuple[float, str]]
    rows: list[tuple[float, str]]
    marks: list[Mark]
    zero: float | None


def dot_layout(chart: DotChart) -> DotLayout:
    """Lay ``chart`` out; its axis encloses all intervals and, for a chart of differences, 0."""
    known = [value for series in chart.series for point in series.points if point for value in point]
    if chart.zero:
        known.append(0.0)
    axis = ticks(min(known, default=0.0), max(known, default=1.0))
    left = 2 * MARGIN + max((text_width(row) for row in chart.rows), default=0)

    def place(value: float) -> float:
        return left + PLOT * (value - axis[0]) / (axis[-1] - axis[0])

    band = STEP * len(chart.series) + GAP
    bottom = TOP + band * len(chart.rows)
    marks = [
        Mark(
            number,
            TOP + band * row + GAP / 2 + STEP * (number + 0.5),
            place(point[0]),
            place(point[1]),
            place(point[2]),
            f"{chart.rows[row]}, {series.name}: {point[0]:.4g} [{point[1]:.4g}, {point[2]:.4g}]",
        )
        for number, series in enumerate(chart.series)
        for row, point in enumerate(series.points)
        if point is not None
    ]
    return DotLayout(
        # The last tick's text is centred below the end of the axis.
        left + PLOT + MARGIN + text_width(f"{axis[-1]:g}", 12) / 2,
        bottom + BOTTOM,
        left,
        bottom,
        [(place(tick), f"{tick:g}") for tick in axis],
        [(TOP + band * (row + 0.5), name) for row, name in enumerate(chart.rows)],
        marks,
        place(0.0) if chart.zero else None,
    )

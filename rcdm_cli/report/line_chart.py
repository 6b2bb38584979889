"""A line chart as SVG. Colours are classes of ``page.css``, so that they follow the reader's light or dark."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from rcdm_cli.report.axis import text_width, ticks
from rcdm_cli.report.elements import Line, LineChart

WIDTH, HEIGHT = 720, 400
TOP, RIGHT, BOTTOM = 12, 16, 52
COLOURS, DASHES = 7, 4
"""Each line has its own colour and dash; as the two counts share no factor, 28 lines differ, in grey too."""

Scale = Callable[[float], float]


@dataclass(frozen=True)
class LineLayout:
    """Where things stand in the drawing of a line chart, in pixels from the top left.

    Attributes:
        left: of the plot, which ends ``RIGHT`` before the drawing does.
        bottom: of the plot, which begins at ``TOP``.
        x_ticks: round numbers along the x axis.
        y_ticks: round numbers along the y axis, whose ends are those of the axis.
        x: where a number stands along the x axis.
        y: where a number stands along the y axis, upwards.
    """

    left: float
    bottom: float
    x_ticks: list[float]
    y_ticks: list[float]
    x: Scale
    y: Scale


def line_layout(chart: LineChart) -> LineLayout:
    """Lay ``chart`` out."""
    x_ends = _range([x for line in chart.lines for x in line.x])
    x_ticks = ticks(*x_ends)
    y_ticks = ticks(*_range([y for line in chart.lines for y in (*line.y, *line.low, *line.high)]))
    left = 34 + max(text_width(f"{tick:g}", 12) for tick in y_ticks)
    if x_ends[0] < x_ends[1]:
        # Along the x axis nothing is drawn beyond the data, so the lines have the whole width.
        x_ticks = [tick for tick in x_ticks if x_ends[0] <= tick <= x_ends[1]]
    else:
        x_ends = x_ticks[0], x_ticks[-1]
    x = _scale(x_ends, left, WIDTH - RIGHT)
    y = _scale((y_ticks[0], y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    return LineLayout(left, HEIGHT - BOTTOM, x_ticks, y_ticks, x, y)


def line_chart(chart: LineChart) -> Markup:
    """The drawing of ``chart``: axes with round numbers, intervals as bands, and the values as tool tips."""
    layout = line_layout(chart)
    parts = [_axes(chart, layout)]
    parts += [_band(number, line, layout.x, layout.y) for number, line in enumerate(chart.lines) if line.low]
    parts += [_line(number, line, layout.x, layout.y) for number, line in enumerate(chart.lines)]
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{chart.title}: {chart.y_label} against {chart.x_label}", Markup("").join(parts)
    )


def legend_mark(number: int) -> Markup:
    """The colour and dash of the line ``number``, for the legend."""
    return Markup(
        '<svg width="36" height="12" aria-hidden="true"><path class="{}" d="M0 6H36"/>'
        '<circle class="{}" cx="18" cy="6" r="3"/></svg>'
    ).format(_stroke(number), _fill(number))


def _stroke(number: int) -> str:
    return f"line c{number % COLOURS} d{number % DASHES}"


def _fill(number: int) -> str:
    return f"fill c{number % COLOURS}"


def _range(values: list[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _scale(ends: tuple[float, float], start: float, end: float) -> Scale:
    low, high = ends
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 2)


def _axes(chart: LineChart, layout: LineLayout) -> Markup:
    left, bottom, right = layout.left, layout.bottom, WIDTH - RIGHT
    across = Markup("").join(
        Markup(
            '<path class="gridline" d="M{left} {y}H{right}"/>'
            '<text class="tick" x="{at}" y="{y}" dy="4" text-anchor="end">{tick}</text>'
        ).format(left=left, right=right, y=layout.y(tick), at=left - 8, tick=f"{tick:g}")
        for tick in layout.y_ticks
    )
    along = Markup("").join(
        Markup(
            '<path class="axis" d="M{x} {bottom}v5"/>'
            '<text class="tick" x="{x}" y="{at}" text-anchor="middle">{tick}</text>'
        ).format(x=layout.x(tick), bottom=bottom, at=bottom + 19, tick=f"{tick:g}")
        for tick in layout.x_ticks
    )
    names = Markup(
        '<path class="axis" d="M{left} {top}V{bottom}H{right}"/>'
        '<text x="{middle}" y="{low}" text-anchor="middle">{x_label}</text>'
        '<text transform="translate(14 {centre}) rotate(-90)" text-anchor="middle">{y_label}</text>'
    ).format(
        left=left,
        top=TOP,
        bottom=bottom,
        right=right,
        middle=(left + right) / 2,
        low=HEIGHT - 10,
        x_label=chart.x_label,
        centre=(TOP + bottom) / 2,
        y_label=chart.y_label,
    )
    return across + along + names


def _band(number: int, line: Line, x: Scale, y: Scale) -> Markup:
    upper = [f"{x(at)},{y(value)}" for at, value in zip(line.x, line.high, strict=True)]
    lower = [f"{x(at)},{y(value)}" for at, value in zip(line.x, line.low, strict=True)]
    return Markup('<polygon class="band {}" points="{}"/>').format(_fill(number), " ".join([*upper, *lower[::-1]]))


def _line(number: int, line: Line, x: Scale, y: Scale) -> Markup:
    points = list(zip(line.x, line.y, strict=True))
    path = Markup('<polyline class="{}" points="{}"/>').format(
        _stroke(number), " ".join(f"{x(at)},{y(value)}" for at, value in points)
    )
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
            _fill(number), x(at), y(value), f"{line.name}: {value:.4g} at {at:.4g}"
        )
        for at, value in points
    )
    return path + dots

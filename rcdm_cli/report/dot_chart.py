"""A dot chart as SVG, in the colours of ``page.css``; series differ in shape too, for those who see no colours."""

from collections.abc import Sequence

from markupsafe import Markup

from rcdm_cli.report.dot_layout import TOP, DotLayout, Mark, dot_layout
from rcdm_cli.report.elements import DotChart
from rcdm_cli.report.line_chart import COLOURS

SHAPES: tuple[Sequence[tuple[float, float]], ...] = (
    (),
    ((0, -5), (5, 0), (0, 5), (-5, 0)),
    ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    ((0, -5), (5, 4), (-5, 4)),
)
"""Corners around the value: a circle, a diamond, a square, a triangle; as with 7 colours, 28 series differ."""


def dot_chart(chart: DotChart) -> Markup:
    """The drawing of ``chart``: rows on the left, a round axis below, and the numbers as tool tips."""
    layout = dot_layout(chart)
    parts = [*_axes(layout, chart.x_label), *(_mark(mark) for mark in layout.marks)]
    return Markup(
        '<svg class="map" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" aria-label="{title}">{parts}</svg>'
    ).format(
        w=f"{layout.width:.0f}", h=f"{layout.height:.0f}", title=f"{chart.title}: {chart.x_label}", parts=_join(parts)
    )


def dot_mark(number: int) -> Markup:
    """The mark of the series ``number``, for the legend."""
    whole = Mark(number, 6, 18, 3, 33, "")
    return Markup('<svg width="36" height="12" aria-hidden="true">{}</svg>').format(_drawn(whole))


def _join(parts: Sequence[Markup]) -> Markup:
    return Markup("").join(parts)


def _axes(layout: DotLayout, label: str) -> list[Markup]:
    parts = []
    for x, text in layout.ticks:
        parts.append(
            Markup(
                '<path class="gridline" d="M{x} {top}V{bottom}"/>'
                '<text class="tick" x="{x}" y="{at}" text-anchor="middle">{text}</text>'
            ).format(x=_at(x), top=TOP, bottom=layout.bottom, at=layout.bottom + 18, text=text)
        )
    if layout.zero is not None:
        parts.append(Markup('<path class="axis" d="M{} {}V{}"/>').format(_at(layout.zero), TOP, layout.bottom))
    for y, name in layout.rows:
        parts.append(
            Markup('<text x="{}" y="{}" dy="5" text-anchor="end">{}</text>').format(_at(layout.left - 8), _at(y), name)
        )
    middle = (layout.left + layout.ticks[-1][0]) / 2
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(_at(middle), layout.bottom + 38, label)
    )
    return parts


def _mark(mark: Mark) -> Markup:
    return Markup("<g><title>{}</title>{}</g>").format(mark.said, _drawn(mark))


def _drawn(mark: Mark) -> Markup:
    colour = f"c{mark.series % COLOURS}"
    y, x = _at(mark.y), _at(mark.x)
    line = Markup('<path class="line {}" d="M{} {}H{}"/>').format(colour, _at(mark.low), y, _at(mark.high))
    shape = SHAPES[mark.series % len(SHAPES)]
    if not shape:
        return line + Markup('<circle class="fill {}" cx="{}" cy="{}" r="4.5"/>').format(colour, x, y)
    corners = " ".join(f"{_at(mark.x + across)},{_at(mark.y + down)}" for across, down in shape)
    return line + Markup('<polygon class="fill {}" points="{}"/>').format(colour, corners)


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

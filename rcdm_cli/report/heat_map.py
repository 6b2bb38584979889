"""A heat map as SVG: the number stands in every cell, so that the colour is never all there is."""

import numpy as np
from markupsafe import Markup

from rcdm_cli.report.axis import text_width
from rcdm_cli.report.colour import colour_map
from rcdm_cli.report.elements import HeatMap

CELL_WIDTH, CELL_HEIGHT = 64, 30
BAR_STEPS = 32


def heat_map(heat: HeatMap) -> Markup:
    """The drawing of ``heat``, with its colour scale below it."""
    left = 12 + max((text_width(name) for name in heat.rows), default=0)
    wide = [text_width(name, 12) for name in heat.columns]
    # Names that do not fit above their column are slanted, and then take height.
    slanted = max(wide, default=0) > CELL_WIDTH
    top = 10 + (0.75 * max(wide) if slanted else 18)
    right = left + CELL_WIDTH * len(heat.columns)
    bottom = top + CELL_HEIGHT * len(heat.rows)
    width = max(right + (0.75 * wide[-1] if slanted else 4), left + 240)
    height = bottom + 48
    parts = [_column_name(name, left + CELL_WIDTH * (i + 0.5), top - 8, slanted) for i, name in enumerate(heat.columns)]
    for r, (name, values) in enumerate(zip(heat.rows, heat.values, strict=True)):
        y = top + CELL_HEIGHT * r
        parts.append(
            Markup('<text x="{}" y="{}" dy="5" text-anchor="end">{}</text>').format(
                _at(left - 8), _at(y + CELL_HEIGHT / 2), name
            )
        )
        parts += [
            _cell(heat, value, left + CELL_WIDTH * c, y, f"{name}, {column}")
            for c, (column, value) in enumerate(zip(heat.columns, values, strict=True))
        ]
    parts.append(_legend(heat, left, bottom + 14))
    return Markup(
        '<svg class="map" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" aria-label="{title}">{parts}</svg>'
    ).format(w=_at(width), h=_at(height), title=heat.title, parts=Markup("").join(parts))


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _colour(heat: HeatMap, value: float) -> tuple[str, bool]:
    """The colour of ``value`` as #rrggbb, and whether white ink is read better on it than black."""
    share = (value - heat.low) / (heat.high - heat.low) if heat.high > heat.low else 0.5
    colour = colour_map(np.array([[share]]))[0, 0]
    # WCAG 2.2: relative luminance of sRGB; at 0.179 black and white have the same contrast, 4.6.
    shares = colour / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return f"#{bytes(colour).hex()}", float(linear @ np.array([0.2126, 0.7152, 0.0722])) < 0.179


def _column_name(name: str, x: float, y: float, slanted: bool) -> Markup:
    if slanted:
        return Markup('<text class="tick" transform="translate({} {}) rotate(-45)">{}</text>').format(
            _at(x), _at(y), name
        )
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(_at(x), _at(y), name)


def _cell(heat: HeatMap, value: float | None, x: float, y: float, where: str) -> Markup:
    box = Markup('<rect x="{}" y="{}" width="{}" height="{}"').format(
        _at(x + 1), _at(y + 1), CELL_WIDTH - 2, CELL_HEIGHT - 2
    )
    if value is None:
        return box + Markup(' class="empty"><title>{}: none</title></rect>').format(where)
    colour, dark = _colour(heat, value)
    return box + Markup(
        ' fill="{}"><title>{}</title></rect><text class="{}" x="{}" y="{}" dy="5" text-anchor="middle">{}</text>'
    ).format(
        colour,
        f"{where}: {value:.4g}",
        "on-dark" if dark else "on-light",
        _at(x + CELL_WIDTH / 2),
        _at(y + CELL_HEIGHT / 2),
        f"{value:.3g}",
    )


def _legend(heat: HeatMap, left: float, top: float) -> Markup:
    step = 200 / BAR_STEPS
    values = np.linspace(heat.low, heat.high, BAR_STEPS)
    bar = Markup("").join(
        Markup('<rect x="{}" y="{}" width="{}" height="10" fill="{}"/>').format(
            _at(left + step * i), _at(top), _at(step + 0.5), _colour(heat, float(value))[0]
        )
        for i, value in enumerate(values)
    )
    ends = Markup("").join(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            _at(x), _at(top + 25), anchor, f"{value:.3g}"
        )
        for x, anchor, value in ((left, "start", heat.low), (left + 200, "end", heat.high))
    )
    return bar + ends

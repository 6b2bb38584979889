"""Charts, drawn by matplotlib: each chart is saved as a PNG or placed in the page as inline SVG."""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.core.files import atomic_write
from rcdm_cli.data.image_grid import font_families
from rcdm_cli.report.elements import DotChart, HeatMap, LineChart

COLOURS = ("#0072b2", "#d55e00", "#00805c", "#aa4499", "#9a6700", "#2a9fc9", "#6b3fa0")
"""Colours of the series, repeated after seven. ``page.css`` has other values for dark mode."""
INK, FAINT, RULE = "#1b1b1f", "#5c5c66", "#d9d9e0"
_DASHES: tuple[Any, ...] = ("solid", (0, (6, 3)), (0, (1.5, 2.5)), (0, (7, 3, 1.5, 3)))
_MARKERS = ("o", "D", "s", "^")
# Numbers of colours and of dashes or markers share no factor: 28 series differ, also without colour.

_LINE_SIZE = (6.6, 3.3)
"""Width and height of the axes of a line chart, in inches."""
_DOT_WIDTH, _DOT_STEP = 5.2, 0.19
"""Width of the axes of a dot chart and height of one series in a row, in inches."""
_CELL = (0.72, 0.34)
"""Width and height of one cell of a heat map, in inches."""

Chart = LineChart | DotChart | HeatMap

_INVALID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# Messages about the font cache and missing font families are not relevant to the user.
logging.getLogger("matplotlib").setLevel(logging.ERROR)


def valid_text(text: str) -> str:
    """Replace control characters, bytes of file names that are not UTF-8, and characters that XML lacks by U+FFFD."""
    return _INVALID.sub("\N{REPLACEMENT CHARACTER}", text)


def _valid(value: Any) -> Any:
    """Return a chart with valid texts."""
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, tuple):
        return tuple(map(_valid, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _valid(getattr(value, each.name)) for each in fields(value)})
    return value


def figure_of(chart: Chart) -> Figure:
    """Build the matplotlib figure of a chart, without the title."""
    with _style():
        match chart:
            case LineChart():
                return _line_chart(chart)
            case DotChart():
                return _dot_chart(chart)
            case HeatMap():
                return _heat_map(chart)


def save_chart(chart: Chart, path: Path) -> None:
    """Save a chart with its title as a PNG on white paper, 200 pixels per inch."""
    chart = _valid(chart)
    with _style(), atomic_write(path) as temporary:
        figure = figure_of(chart)
        figure.axes[0].set_title(chart.title, loc="left", fontweight="bold", pad=10)
        figure.savefig(
            temporary, format="png", dpi=200, facecolor="white", bbox_inches="tight", metadata={"Software": None}
        )


def svg(chart: Chart) -> Markup:
    """Return a chart as inline SVG.

    Text stays text, and the values of a series are tooltips. Styles are presentation attributes: the content security
    policy of the page forbids ``style`` attributes, and ``page.css`` can replace the colours in dark mode.
    """
    chart = _valid(chart)
    file = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _style():
        figure_of(chart).savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata=metadata)
    root = ElementTree.fromstring(file.getvalue())
    _tooltips(root, chart)
    used = {value[1:] for part in root.iter() for name, value in part.items() if name.endswith("href")}
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for part in root.iter():
        _plain(part, used)
    width, height = (float(value) for value in root.get("viewBox", "").split()[2:])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    wide = "wide" if width > 620 else ""
    root.attrib |= {"class": f"chart {wide}".strip(), "role": "img", "aria-label": chart.title}
    root.attrib |= {"width": f"{width * 4 / 3:.0f}", "height": f"{height * 4 / 3:.0f}"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def colour_map(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Map values (H, W) in [0, 1] to the colours of viridis, uint8 (H, W, 3); other values are clipped."""
    colours: NDArray[np.uint8] = matplotlib.colormaps["viridis"](np.clip(values, 0, 1), bytes=True)[..., :3]
    return colours


def colour_bar(height: int, low: float, high: float, label: str) -> NDArray[np.uint8]:
    """Draw the legend of ``colour_map`` as an image.

    Args:
        height: height in pixels.
        low: value of the lowest colour.
        high: value of the highest colour, which larger values have too.
        label: name and unit of the values.

    Returns:
        uint8 (height, 90, 3).
    """
    with _style():
        figure = Figure((0.9, height / 100), dpi=100)
        margin = 12 / height
        axes = figure.add_axes((0.05, margin, 0.18, 1 - 2 * margin))
        bar = figure.colorbar(ScalarMappable(Normalize(low, high), "viridis"), cax=axes, label=label, extend="max")
        bar.outline.set_visible(False)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return np.array(Image.open(file).convert("RGB"))


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    """Ignore warnings of characters that no installed font has: a PNG shows a box, the page has the reader's fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@contextmanager
def _style() -> Iterator[None]:
    settings: Any = {
        "font.family": font_families(),
        "font.size": 10,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "rcdm",
    }
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **settings}), _no_glyph_warnings():
        yield


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with axes of this size in inches. The figure is cropped to its content when it is saved."""
    figure = Figure((width, height))
    return figure, figure.add_axes((0, 0, 1, 1))


def _legend(figure: Figure, axes: Axes, marks: Sequence[Artist], names: Sequence[str], length: float) -> None:
    """List the series below the axis labels, with marks of this length in font sizes."""
    if not names:
        return
    _, height = figure.get_size_inches()
    longest = max(map(len, names))
    columns = 1 if longest > 40 else 2 if longest > 18 else 3
    anchor = (0, -0.55 / height)
    # Names are given here, since matplotlib ignores labels of artists that start with an underscore.
    axes.legend(
        marks, names, loc="upper left", bbox_to_anchor=anchor, borderaxespad=0, ncols=columns, handlelength=length
    )


def _line_chart(chart: LineChart) -> Figure:
    figure, axes = _axes(*_LINE_SIZE)
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.02)
    marks: list[Artist] = []
    for number, line in enumerate(chart.lines):
        colour = COLOURS[number % len(COLOURS)]
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        marks += axes.plot(
            line.x,
            line.y,
            color=colour,
            linestyle=_DASHES[number % len(_DASHES)],
            linewidth=1.7,
            marker="o",
            markersize=4.2,
            gid=f"series-{number}",
        )
    _legend(figure, axes, marks, [line.name for line in chart.lines], 3)
    return figure


def _dot_chart(chart: DotChart) -> Figure:
    count = max(len(chart.series), 1)
    band = 0.14 + _DOT_STEP * count
    figure, axes = _axes(_DOT_WIDTH, band * max(len(chart.rows), 1))
    axes.set(xlabel=chart.x_label, ylim=(max(len(chart.rows), 1) - 0.5, -0.5))
    axes.set_yticks(range(len(chart.rows)), chart.rows, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    if chart.zero:
        axes.axvline(0, color=FAINT, linewidth=1)
    marks: list[Artist] = []
    for number, series in enumerate(chart.series):
        offset = (number - (count - 1) / 2) * _DOT_STEP / band
        found = [(row + offset, *point) for row, point in enumerate(series.points) if point is not None]
        y, value, low, high = np.array(found).reshape(-1, 4).T
        colour = COLOURS[number % len(COLOURS)]
        axes.hlines(y, low, high, color=colour, linewidth=1.7, gid=f"intervals-{number}")
        marker = _MARKERS[number % len(_MARKERS)]
        marks += axes.plot(value, y, marker, color=colour, markersize=5.5, gid=f"series-{number}")
    _legend(figure, axes, marks, [series.name for series in chart.series], 1)
    return figure


def _heat_map(chart: HeatMap) -> Figure:
    rows, columns = len(chart.rows), len(chart.columns)
    figure, axes = _axes(_CELL[0] * max(columns, 1), _CELL[1] * max(rows, 1))
    values = np.ma.masked_invalid(np.array(chart.values, dtype=float).reshape(rows, columns))
    scale = Normalize(chart.low, chart.high)
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    mesh = axes.pcolormesh(*edges, values, norm=scale, cmap="viridis", edgecolors="none", gid="cells")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.grid(visible=False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks(range(rows), chart.rows, color=INK)
    slanted = max(map(len, chart.columns), default=0) > 9
    slant: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(columns), chart.columns, color=INK, **slant)
    for (row, column), value in np.ndenumerate(values.filled(np.nan)):
        if np.isfinite(value):
            ink = "#ffffff" if _luminance(mesh.to_rgba(value)) < 0.179 else "#000000"
            axes.text(column, row, f"{value:.2f}", color=ink, ha="center", va="center")
    _, height = figure.get_size_inches()
    bar_axes = axes.inset_axes((0, -0.35 / height, 2.4 / (_CELL[0] * max(columns, 1)), 0.12 / height))
    bar = figure.colorbar(ScalarMappable(scale, "viridis"), cax=bar_axes, orientation="horizontal")
    bar.outline.set_visible(False)
    return figure


def _luminance(colour: Any) -> float:
    """Return the relative luminance of WCAG 2.2. At 0.179, black and white text have the same contrast."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _tooltips(root: ElementTree.Element, chart: Chart) -> None:
    """Give each marker of a series its value as a tooltip."""
    if isinstance(chart, HeatMap):
        return
    groups = {part.get("id"): part for part in root.iter()}
    for number, texts in enumerate(_values_of(chart)):
        if (group := groups.get(f"series-{number}")) is not None:
            for marker, text in zip([part for part in group.iter() if _local(part.tag) == "use"], texts, strict=True):
                ElementTree.SubElement(marker, "title").text = text


def _values_of(chart: LineChart | DotChart) -> list[list[str]]:
    """Return the text of every value, by series."""
    if isinstance(chart, LineChart):
        return [
            [f"{line.name}: {y:.4g} at {x:.4g}" for x, y in zip(line.x, line.y, strict=True)] for line in chart.lines
        ]
    return [
        [
            f"{row}, {series.name}: {point[0]:.4g} [{point[1]:.4g}, {point[2]:.4g}]"
            for row, point in zip(chart.rows, series.points, strict=True)
            if point is not None
        ]
        for series in chart.series
    ]


def _plain(part: ElementTree.Element, used: set[str]) -> None:
    """Turn a ``style`` attribute into presentation attributes, and remove names and ids that the page does not need."""
    part.tag = _local(part.tag)
    for declaration in part.attrib.pop("style", "").split(";"):
        name, _, value = (text.strip() for text in declaration.partition(":"))
        if name == "font":
            part.set("font-size", re.findall(r"([\d.]+)px", value)[0])
        elif name:
            part.set(name, value)
    part.text, part.tail = (text if text and text.strip() else None for text in (part.text, part.tail))
    for name, value in list(part.items()):
        if name in ("clip-path", "font-family") or (name == "id" and value not in used):
            del part.attrib[name]
        elif name != (local := _local(name)):
            part.set(local, part.attrib.pop(name))

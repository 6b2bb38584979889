"""Elements as HTML. All text is escaped by ``Markup.format``; none of it is put together in another way."""

import base64
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from rcdm_cli.core.errors import InputError
from rcdm_cli.report.dot_chart import dot_chart, dot_mark
from rcdm_cli.report.elements import DotChart, Element, Figure, HeatMap, LineChart, Sentence, Table
from rcdm_cli.report.heat_map import heat_map
from rcdm_cli.report.line_chart import legend_mark, line_chart

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
_SMALLEST = 128
"""Pixels along the shorter side below which a pixelated figure is enlarged by a whole factor."""
_DIGITS = r"[-+−]?\d[\d.,]*(?:e[-+]?\d+)?"
# A number alone, with its error, its unit or its interval; a dash or nothing stands for a missing one.
LONG = 30
"""Rows of a table that a page shows without being asked."""

_NUMBER = re.compile(rf"{_DIGITS}(?:\s*±\s*{_DIGITS})?(?:\s*[%×])?(?:\s*\[{_DIGITS}, {_DIGITS}\])?|[-–—]?")


def as_html(element: Element, folder: Path) -> Markup:
    """One element of a section.

    Args:
        element: what to show.
        folder: what a figure's file is relative to.

    Raises:
        InputError: a figure is missing, cannot be read, or lies outside ``folder``.
    """
    match element:
        case Sentence(text):
            return Markup("<p>{}</p>").format(text)
        case Figure():
            return _image(element, folder)
        case Table():
            # Above the box, where the text is not as wide as the table.
            caption = Markup("<figcaption>{}</figcaption>").format(element.caption) if element.caption else ""
            return Markup("<figure>{}{}</figure>").format(caption, _folded(element))
        case LineChart():
            return _line_chart(element)
        case HeatMap():
            return _heat_map(element)
        case DotChart():
            return _dot_chart(element)


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _scroll(content: Markup, label: str) -> Markup:
    """A box of its own that scrolls sideways; the keyboard reaches it."""
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(label, content)


def _figure(title: str, body: Markup, caption: str) -> Markup:
    heading = Markup('<p class="title">{}</p>').format(title) if title else ""
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup("<figure>{}{}{}</figure>").format(heading, body, below)


def _image(figure: Figure, folder: Path) -> Markup:
    path = folder / figure.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"The results in {folder} name the figure {figure.file!r}, which lies outside that folder.")
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            # Only the size is read here; the figure is not unpacked.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                kind, width, height = image.format or "", image.width, image.height
    except Image.DecompressionBombError:
        text = f"{figure.caption or figure.alt} It is too large for a page: see the file {figure.file} of the run."
        return Markup("<p>{}</p>").format(text)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"The figure {path} is missing or damaged; run the command that made it again.") from error
    if kind not in _MIME:
        raise InputError(f"The figure {path} is {kind}; a page holds {', '.join(_MIME)}.")
    scale = max(1, -(-_SMALLEST // min(width, height))) if figure.pixelated else 1
    image_tag = Markup('<img src="data:{};base64,{}" width="{}" height="{}" alt="{}"{}>').format(
        _MIME[kind],
        base64.b64encode(data).decode(),
        width * scale,
        height * scale,
        figure.alt,
        Markup(' class="pixelated"') if figure.pixelated else "",
    )
    return _figure("", _scroll(image_tag, figure.caption or figure.alt), figure.caption)


def _table(table: Table) -> Markup:
    numeric = [
        len(table.rows) > 0 and all(_NUMBER.fullmatch(cell) for cell in column)
        for column in zip(*table.rows, strict=True)
    ] or [False] * len(table.columns)
    kinds = [Markup(' class="number"') if is_number else "" for is_number in numeric]
    head = _join(
        Markup('<th scope="col"{}>{}</th>').format(kind, name) for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = _join(
        Markup("<tr>{}</tr>").format(
            _join(
                Markup('<th scope="row"{}>{}</th>' if column == 0 else "<td{}>{}</td>").format(kind, cell)
                for column, (kind, cell) in enumerate(zip(kinds, row, strict=True))
            )
        )
        for row in table.rows
    )
    whole = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, rows)
    return _scroll(whole, table.caption or ", ".join(table.columns))


def _folded(table: Table) -> Markup:
    """The table; behind a summary where it is long, so that what comes after it is found."""
    if len(table.rows) <= LONG:
        return _table(table)
    return Markup("<details><summary>All {} rows</summary>{}</details>").format(len(table.rows), _table(table))


def _line_chart(chart: LineChart) -> Markup:
    cells = []
    for line in chart.lines:
        # Either every x has an interval or none has.
        intervals = [f" [{low:.4g}, {high:.4g}]" for low, high in zip(line.low, line.high, strict=True)]
        for x, y, interval in zip(line.x, line.y, intervals or [""] * len(line.x), strict=True):
            cells.append((line.name, f"{x:.4g}", f"{y:.4g}{interval}"))
    body = Markup("{}{}{}").format(
        _scroll(line_chart(chart), chart.title),
        _legend((legend_mark(number), line.name) for number, line in enumerate(chart.lines)),
        _numbers(Table(("", chart.x_label, chart.y_label), tuple(cells))),
    )
    return _figure(chart.title, body, chart.caption)


def _dot_chart(chart: DotChart) -> Markup:
    cells = tuple(
        (row, series.name, f"{point[0]:.4g} [{point[1]:.4g}, {point[2]:.4g}]")
        for place, row in enumerate(chart.rows)
        for series in chart.series
        if (point := series.points[place]) is not None
    )
    body = Markup("{}{}{}").format(
        _scroll(dot_chart(chart), chart.title),
        _legend((dot_mark(number), series.name) for number, series in enumerate(chart.series)),
        _numbers(Table(("", "", chart.x_label), cells)),
    )
    return _figure(chart.title, body, chart.caption)


def _legend(entries: Iterable[tuple[Markup, str]]) -> Markup:
    """Each mark with its name."""
    items = _join(Markup("<li>{}{}</li>").format(mark, name) for mark, name in entries)
    return Markup('<ul class="legend">{}</ul>').format(items)


def _heat_map(heat: HeatMap) -> Markup:
    cells = tuple(
        (name, *("" if value is None else f"{value:.4g}" for value in row))
        for name, row in zip(heat.rows, heat.values, strict=True)
    )
    body = Markup("{}{}").format(_scroll(heat_map(heat), heat.title), _numbers(Table(("", *heat.columns), cells)))
    return _figure(heat.title, body, heat.caption)


def _numbers(table: Table) -> Markup:
    """What a chart shows, as text: for those who cannot see it, and to copy from."""
    return Markup("<details><summary>Numbers</summary>{}</details>").format(_table(table))

"""One self-contained HTML page: images, style and script are in the file, and the page sends no request."""

import base64
import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, UnidentifiedImageError

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import write_text
from rcdm_cli.report.charts import svg, valid_text
from rcdm_cli.report.elements import (
    DotChart,
    Element,
    HeatMap,
    LineChart,
    Section,
    Table,
)

LONG = 30
"""Tables with more rows than this are folded."""

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
_DIGITS = r"[-+−]?\d[\d.,]*(?:e[-+]?\d+)?"
# A number with an error, a unit or an interval; a dash or an empty cell is a missing number.
_NUMBER = re.compile(rf"{_DIGITS}(?:\s*±\s*{_DIGITS})?(?:\s*[%×])?(?:\s*\[{_DIGITS}, {_DIGITS}\])?|[-–—]?")


def write_page(path: Path, title: str, sections: Sequence[tuple[Path, Section]]) -> None:
    """Write sections as one page.

    The content security policy of the page allows embedded images, one style sheet and one script, both by hash.

    Args:
        path: File to write.
        title: Title of the page. A page of one section has the title of the section as its heading.
        sections: Folder of each run, and its section.

    Raises:
        InputError: An image is missing, damaged or outside the folder of its run.
    """
    environment = Environment(
        loader=PackageLoader("rcdm_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "blocks": _blocks,
        "embed": _embed,
        "kind_of": lambda element: type(element).__name__,
        "most_rows": LONG,
        "numbers": _numbers,
        "numeric_columns": _numeric_columns,
        "svg": svg,
    }
    assets = files("rcdm_cli.report") / "templates"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    html = environment.get_template("page.html").render(
        title=title,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        sections=sections,
    )
    write_text(path, valid_text(html))


def _blocks(elements: Sequence[Element]) -> Iterator[list[Element]]:
    """Split elements into blocks: neighbouring charts share a block, so that the page places them side by side."""
    for is_chart, group in groupby(elements, key=lambda element: isinstance(element, LineChart | DotChart)):
        block = list(group)
        yield from [block] if is_chart else [[element] for element in block]


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embed(folder: Path, file: str) -> dict[str, Any] | None:
    """Return the data URI, width and height of an image file; None for an image that is too large for a page."""
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"The results in {folder} name the image {file!r}, which is outside this folder.")
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            # Only the header is read, so a large image needs no memory.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                kind, width, height = image.format or "", image.width, image.height
    except Image.DecompressionBombError:
        return None
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"The image {path} is missing or damaged. Run the command that wrote it again.") from error
    if kind not in _MIME:
        raise InputError(f"The image {path} is {kind}. A page can show {', '.join(_MIME)}.")
    uri = f"data:{_MIME[kind]};base64,{base64.b64encode(data).decode()}"
    return {"uri": uri, "width": width, "height": height}


def _numeric_columns(table: Table) -> list[bool]:
    """Return for each column whether all cells are numbers."""
    return [
        bool(table.rows) and all(_NUMBER.fullmatch(row[column]) for row in table.rows)
        for column in range(len(table.columns))
    ]


def _numbers(chart: LineChart | DotChart | HeatMap) -> Table:
    """Return the values of a chart as a table."""
    match chart:
        case LineChart():
            cells = []
            for line in chart.lines:
                intervals = [f" [{low:.4g}, {high:.4g}]" for low, high in zip(line.low, line.high, strict=True)]
                for x, y, interval in zip(line.x, line.y, intervals or [""] * len(line.x), strict=True):
                    cells.append((line.name, f"{x:.4g}", f"{y:.4g}{interval}"))
            return Table(("", chart.x_label, chart.y_label), tuple(cells))
        case DotChart():
            rows = tuple(
                (row, series.name, f"{point[0]:.4g} [{point[1]:.4g}, {point[2]:.4g}]")
                for index, row in enumerate(chart.rows)
                for series in chart.series
                if (point := series.points[index]) is not None
            )
            return Table(("", "", chart.x_label), rows)
        case HeatMap():
            values = tuple(
                (name, *("" if value is None else f"{value:.4g}" for value in row))
                for name, row in zip(chart.rows, chart.values, strict=True)
            )
            return Table(("", *chart.columns), values)

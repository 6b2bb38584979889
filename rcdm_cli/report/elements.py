"""Content of a page, independent of HTML: sections of sentences, tables, charts and image grids."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rcdm_cli.core.levels import levels_by_depth


@dataclass(frozen=True)
class Sentence:
    """One paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Figure:
    """An image file.

    Attributes:
        file: Path relative to the run's folder, with ``/``.
        alt: Description for readers who cannot see the image.
        caption: Plain text below the image.
    """

    file: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class GridImage:
    """One image of an image grid.

    Attributes:
        file: Path relative to the run's folder, with ``/``.
        alt: Description for readers who cannot see the image.
        notes: Lines of text shown on hover, on focus and beside the enlarged image.
        kind: Input image, sample or standard-deviation map.
    """

    file: str
    alt: str
    notes: tuple[str, ...] = ()
    kind: Literal["image", "sample", "map"] = "sample"


@dataclass(frozen=True)
class ImageGroup:
    """Neighbouring images with one label.

    Attributes:
        label: Heading of the group.
        images: Images from the left; None is an empty cell.
        method: Method by which the reader can switch the group on and off.
        level: Level by which the reader can switch the group on and off.
        spread: Mean standard deviation of the samples, by which rows are sorted.
        similarity: Mean cosine similarity of the samples, by which rows are sorted.
    """

    label: str
    images: tuple[GridImage | None, ...]
    method: str = ""
    level: str = ""
    spread: float | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class ImageRow:
    """A row of an image grid: a label, an optional input image, and groups of images."""

    label: str
    groups: tuple[ImageGroup, ...]
    image: GridImage | None = None

    @property
    def count(self) -> int:
        """Number of images in the groups."""
        return sum(len(group.images) for group in self.groups)


@dataclass(frozen=True)
class ImageGrid:
    """Rows of images. Rows whose groups have a spread can be sorted and filtered by the reader.

    Attributes:
        caption: How to read a row.
        rows: Rows from the top.
        title: Heading.
        map_top: Value of the brightest colour of the maps, as a fraction of the pixel range. 0 is the darkest colour.
    """

    caption: str
    rows: tuple[ImageRow, ...]
    title: str = ""
    map_top: float | None = None

    @property
    def methods(self) -> list[str]:
        """Methods of the groups."""
        return list(dict.fromkeys(group.method for row in self.rows for group in row.groups if group.method))

    @property
    def levels(self) -> list[str]:
        """Levels of the groups by depth."""
        return levels_by_depth((group.method, group.level) for row in self.rows for group in row.groups if group.level)

    @property
    def sortable(self) -> bool:
        """Whether all groups of several rows have a spread."""
        return len(self.rows) > 1 and all(group.spread is not None for row in self.rows for group in row.groups)


@dataclass(frozen=True)
class Table:
    """Rows of cells with rounded numbers as text. Columns of numbers are aligned right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


Cell = str | Callable[[Mapping[str, Any]], str]
"""Cell of a column: a format string with the names of values of an entry, or a function of the entry."""

PAIR: dict[str, Cell] = {"method": "{method}", "level": "{level}"}
"""First columns of a table with one row per (method, level)."""


def table(entries: Iterable[Mapping[str, Any]], columns: Mapping[str, Cell], caption: str = "") -> Table:
    """Return a table with one row per entry.

    Args:
        entries: values of each row.
        columns: heading and cell of each column.
        caption: caption of the table.
    """
    rows = (
        tuple(cell.format_map(entry) if isinstance(cell, str) else cell(entry) for cell in columns.values())
        for entry in entries
    )
    return Table(tuple(columns), tuple(rows), caption)


@dataclass(frozen=True)
class Line:
    """One line of a line chart, with the bounds of an interval at each x or without an interval."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check that there is one y, and one interval or none, at each x."""
        intervals = len(self.low) == len(self.high) and len(self.low) in (0, len(self.x))
        if len(self.y) != len(self.x) or not intervals:
            raise ValueError(f"the line {self.name!r} has {len(self.x)} x and {len(self.y)} y")


@dataclass(frozen=True)
class LineChart:
    """Lines over one x axis."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    caption: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Coloured cells with their numbers.

    Attributes:
        title: Heading.
        rows: Names of the rows.
        columns: Names of the columns.
        values: Numbers by row and column; None is an empty cell.
        low: Lower end of the colour scale.
        high: Upper end of the colour scale.
        caption: Plain text below the chart.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float
    high: float
    caption: str = ""

    def __post_init__(self) -> None:
        """Check that there is one value per row and column."""
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(f"{self.title!r} has values for other rows and columns")


@dataclass(frozen=True)
class Dots:
    """One series of a dot chart: value, lower and upper bound for each row; None is no value."""

    name: str
    points: tuple[tuple[float, float, float] | None, ...]


@dataclass(frozen=True)
class DotChart:
    """Values with intervals along one axis, one band for each row. ``zero`` draws a line at 0, for differences."""

    title: str
    x_label: str
    rows: tuple[str, ...]
    series: tuple[Dots, ...]
    caption: str = ""
    zero: bool = False

    def __post_init__(self) -> None:
        """Check that every series has one point per row."""
        if any(len(series.points) != len(self.rows) for series in self.series):
            raise ValueError(f"{self.title!r} has points for other rows")


Element = Sentence | Figure | ImageGrid | Table | LineChart | HeatMap | DotChart


@dataclass(frozen=True)
class Section:
    """One question and the answer.

    Attributes:
        title: Heading, also in the table of contents.
        question: The question, in one or two sentences.
        elements: The answer in reading order.
        settings: Names and values of the settings of the run.
    """

    title: str
    question: str
    elements: tuple[Element, ...]
    settings: tuple[tuple[str, str], ...] = ()

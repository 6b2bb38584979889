"""What a page is made of, without a word of HTML: sections of sentences, figures, tables and charts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """One paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Figure:
    """An image file beside the results.

    Attributes:
        file: its path relative to the run's folder, with ``/``.
        alt: what it shows, for a person who cannot see it.
        caption: plain text below it.
        pixelated: whether it is enlarged without smoothing.
    """

    file: str
    alt: str
    caption: str = ""
    pixelated: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells. Numbers are given as text, already rounded; a column whose cells are all numbers aligns right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``low`` and ``high`` are the bounds of its interval at each x, where it has one."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


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
    """Coloured cells, ``values[row][column]`` with the number written in each; None is an empty cell.

    ``low`` and ``high`` are the ends of the colour scale.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float
    high: float
    caption: str = ""


@dataclass(frozen=True)
class Dots:
    """One series of a dot chart: for each row a value and the bounds of its interval; None leaves the row empty."""

    name: str
    points: tuple[tuple[float, float, float] | None, ...]


@dataclass(frozen=True)
class DotChart:
    """Values with their intervals along one axis, a band for each row, the series below each other in it.

    ``zero`` draws a line at 0, for differences.
    """

    title: str
    x_label: str
    rows: tuple[str, ...]
    series: tuple[Dots, ...]
    caption: str = ""
    zero: bool = False


Element = Sentence | Figure | Table | LineChart | HeatMap | DotChart


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        title: heading, also in the contents list.
        question: what was asked, in one sentence.
        elements: the answer, in reading order; the sentence that answers comes first.
    """

    title: str
    question: str
    elements: tuple[Element, ...]

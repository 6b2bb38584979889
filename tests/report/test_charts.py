from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from rcdm_cli.report.axis import ticks
from rcdm_cli.report.canvas import Canvas
from rcdm_cli.report.colour import colour_map
from rcdm_cli.report.elements import HeatMap, Line, LineChart
from rcdm_cli.report.heat_map import heat_map
from rcdm_cli.report.line_chart import line_chart, line_layout
from rcdm_cli.report.line_figure import draw_line_chart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 8 / 255, [0, 0.01, 0.02, 0.03, 0.04]),
        (-3, 117, [-50, 0, 50, 100, 150]),
        (0.5, 0.5, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (np.nextafter(0.5, 0), 0.5, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (-1, np.nextafter(-1, 0), [-1.6, -1.4, -1.2, -1, -0.8, -0.6, -0.4]),
        (0, 0, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    assert ticks(low, high) == expected


@pytest.mark.parametrize("power", range(-12, 13, 3))
def test_ticks_enclose_any_range_evenly(power):
    draw = np.random.default_rng(power + 12)
    for low, high in np.sort(draw.normal(size=(50, 2)) * 10.0**power, axis=1):
        marks = ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert 2 <= len(marks) <= 9
        steps = [b - a for a, b in pairwise(marks)]
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def points(svg, name):
    return [
        [tuple(float(part) for part in pair.split(",")) for pair in shape.get("points").split()]
        for shape in ElementTree.fromstring(svg).iter(name)
    ]


def test_lines_are_where_their_numbers_are():
    chart = LineChart(
        "t", "x", "y", (Line("a", (0.0, 1.0, 4.0), (0.0, 1.0, 0.25)), Line("b", (0.0, 4.0), (1, 0), (0.5, 0), (1, 0.5)))
    )
    svg = line_chart(chart)
    first, second = points(svg, "polyline")
    x, y = np.array(first).T
    # One linear scale for each axis, y upwards: a point's share of the way is its number's.
    np.testing.assert_allclose((x - x[0]) / (x[2] - x[0]), [0, 0.25, 1], atol=1e-3)
    np.testing.assert_allclose((y - y[0]) / (y[1] - y[0]), [0, 1, 0.25], atol=1e-3)
    assert y[1] < y[0]
    assert second == [(x[0], y[1]), (x[2], y[0])]
    [band] = points(svg, "polygon")
    assert band[0] == (x[0], y[1])
    np.testing.assert_allclose([band[1], band[3]], [(x[2], (y[0] + y[1]) / 2), (x[0], (y[0] + y[1]) / 2)], atol=0.02)
    tips = [title.text for title in ElementTree.fromstring(svg).iter("title")]
    assert tips[:3] == ["a: 0 at 0", "a: 1 at 1", "a: 0.25 at 4"]


def test_no_two_lines_of_a_chart_look_alike():
    lines = tuple(Line(str(k), (0.0, 1.0), (0.0, 1.0)) for k in range(28))
    shapes = ElementTree.fromstring(line_chart(LineChart("t", "x", "y", lines))).iter("polyline")
    assert len({shape.get("class") for shape in shapes}) == 28


def test_a_chart_of_one_point_or_none_has_axes():
    for lines in ((), (Line("a", (3.0,), (5.0,)),)):
        svg = ElementTree.fromstring(line_chart(LineChart("t", "x", "y", lines)))
        assert len(list(svg.iter("text"))) > 4


def test_cells_have_the_colour_and_the_number_of_their_value():
    svg = heat_map(HeatMap("t", ("r", "s"), ("a", "b"), ((0.0, 0.5), (2.0, None)), 0, 2))
    cells = [(rect.get("fill"), rect.find("title")) for rect in ElementTree.fromstring(svg).iter("rect")][:4]
    expected = [f"#{bytes(colour_map(np.array([[share]]))[0, 0]).hex()}" for share in (0, 0.25, 1)]
    assert [fill for fill, _ in cells] == [*expected, None]
    assert [title.text for _, title in cells] == ["r, a: 0", "r, b: 0.5", "s, a: 2", "s, b: none"]
    numbers = [(text.text, text.get("class")) for text in ElementTree.fromstring(svg).iter("text")]
    assert ("0", "on-dark") in numbers
    assert ("2", "on-light") in numbers


def test_ink_can_be_read_on_every_colour():
    shares = np.linspace(0, 1, 101)
    values = (tuple(shares),)
    svg = ElementTree.fromstring(heat_map(HeatMap("t", ("r",), tuple("c" * 101), values, 0, 1)))
    inks = [text.get("class") for text in svg.iter("text") if text.get("class", "").startswith("on-")]
    for share, ink in zip(shares, inks, strict=True):
        # Contrast of WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of relative luminances; 4.5 is enough for text.
        s = colour_map(np.array([[share]]))[0, 0] / 255
        luminance = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        contrast = 1.05 / (luminance + 0.05) if ink == "on-dark" else (luminance + 0.05) / 0.05
        assert contrast >= 4.5


def test_the_figure_of_a_chart_has_its_lines_where_the_page_has_them():
    lines = (
        Line("a", (0.0, 1.0, 4.0), (0.0, 1.0, 0.25), (0.0, 0.9, 0.2), (0.1, 1.0, 0.3)),
        Line("고양이", (0.0, 4.0), (1, 0)),
    )
    chart = LineChart("Title", "x", "y", lines)
    canvas, layout = draw_line_chart(chart).astype(int), line_layout(chart)
    for colour, line in zip(("#0072b2", "#d55e00"), lines, strict=True):
        rows, columns = np.nonzero((np.abs(canvas - list(bytes.fromhex(colour[1:]))) <= 2).all(axis=2))
        # Twice as large as on the page; the legend stands below.
        plot = rows < 2 * 42 + 2 * layout.bottom + 8
        xs = [layout.x(x) for x in line.x]
        assert columns[plot].min() == pytest.approx(2 * (min(xs) - 3), abs=2)
        assert columns[plot].max() == pytest.approx(2 * (max(xs) + 3), abs=2)
        for x, y in zip(line.x, line.y, strict=True):
            near = plot & (np.abs(columns - 2 * layout.x(x)) <= 2)
            assert np.abs(rows[near] - 2 * (42 + layout.y(y))).min() <= 2


def test_a_dashed_line_has_gaps():
    whole, dashed = Canvas(100, 10), Canvas(100, 10)
    whole.line([(0, 5), (50, 5), (100, 5)], "#000000", 2)
    dashed.line([(0, 5), (50, 5), (100, 5)], "#000000", 2, (8, 4))
    row = dashed.pixels()[10, :, 0]
    assert (whole.pixels()[10, :, 0] == 0).all()
    # Strokes of 8 every 12 pixels, twice as large; the pattern goes on around the corner.
    assert [int(row[2 * x]) for x in (4, 10, 16, 22, 52, 58)] == [0, 255, 0, 255, 0, 255]

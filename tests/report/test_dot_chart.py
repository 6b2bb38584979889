from xml.etree import ElementTree

import numpy as np
import pytest

from rcdm_cli.report.dot_chart import dot_chart, dot_mark
from rcdm_cli.report.dot_figure import draw_dots
from rcdm_cli.report.dot_layout import dot_layout
from rcdm_cli.report.elements import DotChart, Dots
from rcdm_cli.report.html import as_html

CHART = DotChart(
    "Accuracy",
    "accuracy in %",
    ("dino <b>", "고양이"),
    (Dots("linear", ((40.0, 30.0, 50.0), (70.0, 65.0, 75.0))), Dots("k-NN", (None, (20.0, 0.0, 100.0)))),
)


def test_marks_stand_where_their_numbers_are():
    layout = dot_layout(CHART)
    first, second, third = layout.marks
    zero, hundred = layout.ticks[0][0], layout.ticks[-1][0]
    assert [text for _, text in layout.ticks] == ["0", "20", "40", "60", "80", "100"]
    for mark, point in ((first, (40, 30, 50)), (second, (70, 65, 75)), (third, (20, 0, 100))):
        np.testing.assert_allclose(
            [(x - zero) / (hundred - zero) for x in (mark.x, mark.low, mark.high)], np.array(point) / 100
        )
    (top, _), (bottom, _) = layout.rows
    assert first.y < top < second.y < bottom < third.y < layout.bottom < layout.height
    assert layout.zero is None


def test_differences_have_a_line_at_zero_even_where_all_are_above_it():
    chart = DotChart("d", "points", ("a",), (Dots("linear", ((5.0, 4.0, 6.0),)),), zero=True)
    layout = dot_layout(chart)
    assert layout.zero == {text: x for x, text in layout.ticks}["0"]
    assert layout.zero < layout.marks[0].low
    assert 'class="axis"' in dot_chart(chart)


def test_the_drawing_says_its_numbers_and_keeps_names_as_text():
    tree = ElementTree.fromstring(dot_chart(CHART))
    tips = [title.text for title in tree.iter("title")]
    assert tips == [
        "dino <b>, linear: 40 [30, 50]",
        "고양이, linear: 70 [65, 75]",
        "고양이, k-NN: 20 [0, 100]",
    ]
    assert {"dino <b>", "고양이"} <= {text.text for text in tree.iter("text")}
    assert tree.get("aria-label") == "Accuracy: accuracy in %"
    page = as_html(CHART, None)
    assert "<td>linear</td>" in page
    assert "40 [30, 50]" in page


def test_no_two_series_look_alike():
    assert len({str(dot_mark(number)) for number in range(28)}) == 28


def test_the_figure_shows_each_interval_in_its_series_colour():
    canvas = draw_dots(CHART).astype(int)
    layout = dot_layout(CHART)
    for mark, colour in zip(layout.marks, ("#0072b2", "#0072b2", "#d55e00"), strict=True):
        wanted = np.array(list(bytes.fromhex(colour[1:])))
        # The figure is the layout twice as large, below its title.
        rows, columns = np.nonzero((np.abs(canvas - wanted) <= 2).all(axis=2))
        near = np.abs(rows - rows.min() - 2 * (mark.y - min(m.y for m in layout.marks if m.series == mark.series))) < 24
        assert columns[near].min() == pytest.approx(2 * mark.low, abs=3)
        assert columns[near].max() == pytest.approx(2 * mark.high, abs=3)


def test_a_chart_without_a_point_is_empty_and_no_error():
    chart = DotChart("t", "x", ("a",), (Dots("s", (None,)),))
    assert "<circle" not in dot_chart(chart)
    assert draw_dots(chart).dtype == np.uint8

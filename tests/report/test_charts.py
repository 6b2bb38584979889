import warnings
from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from rcdm_cli.report.charts import COLOURS, colour_bar, colour_map, figure_of, save_chart, svg
from rcdm_cli.report.elements import DotChart, Dots, HeatMap, Line, LineChart

EVIL = "</svg><script>alert('1')</script> & $x_1$ 고양이"
LINES = LineChart(
    "Title",
    EVIL,
    "y",
    (
        Line("a", (0.0, 1.0, 4.0), (0.0, 1.0, 0.25), (0.0, 0.9, 0.2), (0.1, 1.0, 0.3)),
        Line("_b", (0.0, 4.0), (1.0, 0.0)),
    ),
)
DOTS = DotChart(
    "Accuracy",
    "accuracy in %",
    ("dino <b>", EVIL),
    (Dots("linear", ((40.0, 30.0, 50.0), (70.0, 65.0, 75.0))), Dots("k-NN", (None, (20.0, 0.0, 100.0)))),
)
HEAT = HeatMap("Similarity", ("r", EVIL), ("a", "b"), ((0.0, 0.5), (2.0, None)), 0, 2)
CHARTS = [LINES, DOTS, HEAT]


def markers(tree: ElementTree.Element) -> Iterator[tuple[str, float, float]]:
    """Tooltip and position of every marker."""
    for use in tree.iter("use"):
        if (title := use.find("title")) is not None:
            yield title.text, float(use.get("x")), float(use.get("y"))


def test_line_chart_has_lines_and_bands_of_the_data():
    [axes] = figure_of(LINES).axes
    for line, drawn in zip(LINES.lines, axes.lines, strict=True):
        np.testing.assert_array_equal(drawn.get_xydata(), np.transpose([line.x, line.y]))
    [band] = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert corners == {(0, 0), (0, 0.1), (1, 0.9), (1, 1), (4, 0.2), (4, 0.3)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == (EVIL, "y")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "_b"]


def test_svg_markers_are_placed_in_proportion_to_the_data():
    found = list(markers(ElementTree.fromstring(svg(LINES))))
    assert [text for text, _, _ in found] == ["a: 0 at 0", "a: 1 at 1", "a: 0.25 at 4", "_b: 1 at 0", "_b: 0 at 4"]
    x, y = np.array([position for _, *position in found]).T
    np.testing.assert_allclose((x - x[0]) / (x[2] - x[0]), [0, 0.25, 1, 0, 1], atol=1e-4)
    # In SVG, y points down.
    np.testing.assert_allclose((y - y[0]) / (y[1] - y[0]), [0, 1, 0.25, 1, 0], atol=1e-4)
    assert y[1] < y[0]


def test_dot_chart_has_values_and_intervals_of_the_data():
    [axes] = figure_of(DOTS).axes
    linear, knn = axes.lines
    assert linear.get_xdata().tolist() == [40, 70]
    assert knn.get_xdata().tolist() == [20]
    intervals = [[segment[:, 0].tolist() for segment in lines.get_segments()] for lines in axes.collections]
    assert intervals == [[[30, 50], [65, 75]], [[0, 100]]]
    # Rows go down; within a row, series go down.
    assert axes.yaxis_inverted()
    first, second = linear.get_ydata()
    assert first < 0.5 < second < knn.get_ydata()[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["dino <b>", EVIL]
    tips = [text for text, _, _ in markers(ElementTree.fromstring(svg(DOTS)))]
    assert tips == ["dino <b>, linear: 40 [30, 50]", f"{EVIL}, linear: 70 [65, 75]", f"{EVIL}, k-NN: 20 [0, 100]"]


def test_dot_chart_of_differences_has_a_line_at_zero():
    series = (Dots("linear", ((5.0, 4.0, 6.0),)),)
    [axes] = figure_of(DotChart("d", "points", ("a",), series, zero=True)).axes
    assert [0, 0] in [list(line.get_xdata()) for line in axes.lines]
    assert axes.get_xlim()[0] < 0
    [axes] = figure_of(DotChart("d", "points", ("a",), series)).axes
    assert axes.get_xlim()[0] > 0


def test_heat_map_cells_have_colour_and_number_of_their_value():
    axes = figure_of(HEAT).axes[0]
    [mesh] = axes.collections
    mesh.update_scalarmappable()
    viridis = matplotlib.colormaps["viridis"]
    np.testing.assert_allclose(mesh.get_facecolors()[:3], [viridis(share) for share in (0.0, 0.25, 1.0)])
    assert mesh.get_array().mask.ravel().tolist() == [False, False, False, True]
    numbers = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert numbers == {((0, 0), "0.00"), ((1, 0), "0.50"), ((0, 1), "2.00")}


def test_heat_map_numbers_have_enough_contrast_on_every_colour():
    shares = np.linspace(0, 1, 101)
    chart = HeatMap("t", ("r",), tuple("c" * 101), (tuple(shares),), 0, 1)
    for share, text in zip(shares, figure_of(chart).axes[0].texts, strict=True):
        s = colour_map(np.array([[share]]))[0, 0] / 255
        # WCAG 2.2 requires a contrast of 4.5 for text.
        luminance = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        contrast = 1.05 / (luminance + 0.05) if to_hex(text.get_color()) == "#ffffff" else (luminance + 0.05) / 0.05
        assert contrast >= 4.5


def test_28_series_differ():
    lines = tuple(Line(str(k), (0.0, 1.0), (0.0, 1.0)) for k in range(28))
    drawn = figure_of(LineChart("t", "x", "y", lines)).axes[0].lines
    assert len({(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in drawn}) == 28
    series = tuple(Dots(str(k), ((1.0, 0.0, 2.0),)) for k in range(28))
    drawn = figure_of(DotChart("t", "x", ("r",), series)).axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 28


@pytest.mark.parametrize(
    "chart",
    [
        LineChart("t", "x", "y", ()),
        LineChart("t", "x", "y", (Line("a", (3.0,), (5.0,)),)),
        DotChart("t", "x", ("a",), (Dots("s", (None,)),)),
        DotChart("t", "x", (), ()),
        HeatMap("t", ("r",), ("c",), ((None,),), 0, 1),
    ],
)
def test_chart_with_little_or_no_data_has_axes(chart, tmp_path):
    assert "<text" in svg(chart)
    save_chart(chart, tmp_path / "chart.png")


@pytest.mark.parametrize("chart", CHARTS)
def test_svg_is_deterministic_text_without_styles_or_references(chart):
    found = svg(chart)
    assert found == svg(chart)
    tree = ElementTree.fromstring(found)
    assert tree.get("aria-label") == chart.title
    assert EVIL in [text.text for text in tree.iter("text")]
    assert not [part for part in tree.iter() if "style" in part.attrib or part.tag in ("style", "script")]
    assert all(part.get("href").startswith("data:image/png;base64,") for part in tree.iter("image"))
    ids = {part.get("id") for part in tree.iter()} - {None}
    assert {part.get("href") for part in tree.iter("use")} == {f"#{name}" for name in ids}


@pytest.mark.parametrize("chart", CHARTS)
def test_png_is_opaque_and_has_the_colours_of_the_chart(chart, tmp_path):
    save_chart(chart, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGBA"))
    assert (pixels[..., 3] == 255).all()
    assert (pixels[0, 0] == 255).all()
    colours = {tuple(colour) for colour in pixels[..., :3].reshape(-1, 3)}
    expected = ["#fde725", "#440154"] if isinstance(chart, HeatMap) else COLOURS[:2]
    assert {tuple(bytes.fromhex(colour[1:])) for colour in expected} <= colours


def test_charts_change_no_global_setting_of_matplotlib(tmp_path):
    before = dict(matplotlib.rcParams)
    for chart in CHARTS:
        save_chart(chart, tmp_path / "chart.png")
        svg(chart)
    assert dict(matplotlib.rcParams) == before


def test_characters_without_a_glyph_give_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_chart(LineChart("ᚠ 🐈 \U0001f9ff", "x", "y", (Line("𒀀", (0.0,), (1.0,)),)), tmp_path / "chart.png")
        colour_bar(100, 0, 1, "𒀀")


def test_colour_map_is_linear_viridis_and_clips():
    colours = colour_map(np.array([[-1, 0, 0.5, 1, 2]]))
    assert colours.shape == (1, 5, 3)
    assert colours.dtype == np.uint8
    assert colours[0, 0].tolist() == colours[0, 1].tolist() == [68, 1, 84]
    assert np.abs(colours[0, 2].astype(int) - (33, 145, 140)).max() <= 2
    assert colours[0, 3].tolist() == colours[0, 4].tolist()
    np.testing.assert_allclose(colours[0, 4], [253, 231, 37], atol=1)
    # Values are not stretched to the largest value.
    low = colour_map(np.array([[0.1, 0.2]], np.float32))
    np.testing.assert_array_equal(low, colour_map(np.array([[0.1, 0.2, 1]], np.float32))[:, :2])


def test_colour_bar_has_the_brightest_colour_at_the_top():
    bar = colour_bar(200, 0, 0.125, "standard deviation")
    assert bar.shape == (200, 90, 3)
    column = bar[:, 12].astype(int)
    rows = np.flatnonzero(np.abs(column - 255).max(axis=1) > 0)
    assert len(rows) > 150
    assert np.abs(column[rows[3]] - (253, 231, 37)).max() < 16
    assert np.abs(column[rows[-4]] - (68, 1, 84)).max() < 16

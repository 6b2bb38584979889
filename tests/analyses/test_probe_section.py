import json

import pytest
from PIL import Image

from rcdm_cli.analyses.probe.section import answers, section, write
from rcdm_cli.report.elements import DotChart, HeatMap, Sentence, Table


def interval(value, half, over_seeds=None):
    """Return an interval. Its interval over seeds has half the width and another centre."""
    seeds = value - 0.01 if over_seeds is None else over_seeds
    over = {"value": seeds, "low": seeds - half / 2, "high": seeds + half / 2, "values": [seeds, seeds]}
    return {"value": value, "low": value - half, "high": value + half, "over_seeds": over}


def one(method, level, linear):
    return {
        "method": method,
        "level": level,
        "width": 256,
        "linear": interval(linear, 0.02),
        "knn": interval(linear - 0.1, 0.02),
        "strength": 0.01,
        "strength_by_seed": [0.01, 0.1],
        "by_class": [linear, None, 0.5],
    }


def difference(method, linear, knn, knn_over_seeds=None):
    return {"method": method, "linear": interval(linear, 0.03), "knn": interval(knn, 0.03, knn_over_seeds)}


@pytest.fixture
def results():
    return {
        "kind": "probe",
        "classes": ["<cat>", "gone", "dog"],
        "validation_images_by_class": [30, 0, 10],
        "training_images": 100,
        "validation_images": 40,
        "majority": 0.75,
        "neighbours": 20,
        "seeds": 2,
        "results": [one("a", "backbone", 0.6), one("a", "projector", 0.5), one("b", "backbone", 0.7)],
        "differences": [difference("a", 0.1, 0.01), difference("b", -0.1, 0.05, 0.01), difference("c", 0.02, 0.0)],
    }


def test_difference_is_significant_if_both_intervals_exclude_zero(results):
    assert answers(results) == [
        "Linear classifier: the backbone is better than the projector for a (+10.0 [+7.0, +13.0] over images, +9.0"
        " [+7.5, +10.5] over seeds); the projector is better than the backbone for b (-10.0 [-13.0, -7.0] over images,"
        " -11.0 [-12.5, -9.5] over seeds); no significant difference for c (+2.0 [-1.0, +5.0] over images, +1.0 [-0.5,"
        " +2.5] over seeds).",
        "k-NN: no significant difference for a (+1.0 [-2.0, +4.0] over images, +0.0 [-1.5, +1.5] over seeds), b (+5.0"
        " [+2.0, +8.0] over images, +1.0 [-0.5, +2.5] over seeds) and c (+0.0 [-3.0, +3.0] over images, -1.0 [-2.5,"
        " +0.5] over seeds).",
        "Differences in percentage points with 95 % confidence intervals. A difference is significant if the intervals"
        " over images and over 2 seeds both exclude 0.",
    ]


def test_best_representation_is_named_if_levels_are_not_compared(results):
    results["differences"] = []
    assert answers(results) == [
        "The linear classifier is most accurate on b backbone: 70.0 [68.0, 72.0] % of the images."
    ]
    assert len([element for element in section(results).elements if isinstance(element, Table)]) == 1


def test_tables_and_heat_map_have_every_number(results):
    elements = section(results).elements
    assert isinstance(elements[0], Sentence)
    accuracies, differences = (element for element in elements if isinstance(element, Table))
    linear, knn = ("50.0 [48.0, 52.0]", "49.0 [48.0, 50.0]"), ("40.0 [38.0, 42.0]", "39.0 [38.0, 40.0]")
    assert accuracies.rows[1] == ("a", "projector", "256", *linear, *knn, "0.01")
    linear, knn = ("+10.0 [+7.0, +13.0]", "+9.0 [+7.5, +10.5]"), ("+1.0 [-2.0, +4.0]", "+0.0 [-1.5, +1.5]")
    assert differences.rows[0] == ("a", *linear, *knn)
    [by_class] = (element for element in elements if isinstance(element, HeatMap))
    assert by_class.columns == ("<cat> (30)", "dog (10)")
    assert by_class.values == ((0.6, 0.5), (0.5, 0.5), (0.7, 0.5))
    assert by_class.rows == ("a backbone", "a projector", "b backbone")


def test_charts_are_on_the_page_and_saved_as_png(results, tmp_path):
    accuracy, difference = (element for element in section(results).elements if isinstance(element, DotChart))
    assert accuracy.rows == ("a backbone", "a projector", "b backbone")
    assert accuracy.series[1].points[2] == pytest.approx((69, 68, 70))
    assert difference.zero
    assert difference.series[2].points[1] == pytest.approx((5, 2, 8))
    values = write(tmp_path, results)
    assert values == json.loads((tmp_path / "results.json").read_text())
    assert set(values["files"]) == {"accuracy.png", "backbone-minus-projector.png"}
    for name in values["files"]:
        with Image.open(tmp_path / name) as chart:
            assert chart.format == "PNG"
            assert chart.width > 500
    results["differences"] = []
    write(tmp_path, results)
    assert [path.name for path in tmp_path.glob("*.png")] == ["accuracy.png"]

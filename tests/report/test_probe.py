import pytest

from rcdm_cli.report.elements import HeatMap, Sentence, Table
from rcdm_cli.report.probe import answers, section


def interval(value, half):
    return {"value": value, "low": value - half, "high": value + half}


def one(method, level, linear):
    return {
        "method": method,
        "level": level,
        "width": 256,
        "linear": interval(linear, 0.02),
        "knn": interval(linear - 0.1, 0.02),
        "strength": 0.01,
        "by_class": [linear, None, 0.5],
    }


def difference(method, linear, knn):
    return {"method": method, "linear": interval(linear, 0.03), "knn": interval(knn, 0.03)}


@pytest.fixture
def results():
    return {
        "classes": ["<cat>", "gone", "dog"],
        "validation_photos_by_class": [30, 0, 10],
        "training_photos": 100,
        "validation_photos": 40,
        "majority": 0.75,
        "neighbours": 20,
        "results": [one("a", "backbone", 0.6), one("a", "projector", 0.5), one("b", "backbone", 0.7)],
        "differences": [difference("a", 0.1, 0.01), difference("b", -0.1, 0.05), difference("c", 0.02, 0.0)],
    }


def test_sentences_say_what_the_intervals_allow(results):
    assert answers(results) == [
        "Read by a linear classifier: the backbone beats the projector for a (+10.0 [+7.0, +13.0]); the projector beats"
        " the backbone for b (-10.0 [-13.0, -7.0]); neither is ahead beyond doubt for c (+2.0 [-1.0, +5.0])"
        " (difference in percentage points, 95 % interval).",
        "Read by k-NN: the backbone beats the projector for b (+5.0 [+2.0, +8.0]); neither is ahead beyond doubt for"
        " a (+1.0 [-2.0, +4.0]) and c (+0.0 [-3.0, +3.0]) (difference in percentage points, 95 % interval).",
    ]


def test_without_both_levels_the_best_is_named(results):
    results["differences"] = []
    assert answers(results) == [
        "The class is read best from b at backbone level: 70.0 [68.0, 72.0] % of the photos by a linear classifier."
    ]
    assert len([element for element in section(results).elements if isinstance(element, Table)]) == 1


def test_tables_and_map_hold_every_number(results):
    elements = section(results).elements
    assert isinstance(elements[0], Sentence)
    accuracies, differences = (element for element in elements if isinstance(element, Table))
    assert accuracies.rows[1] == ("a", "projector", "256", "50.0 [48.0, 52.0]", "40.0 [38.0, 42.0]", "0.01")
    assert differences.rows[0] == ("a", "+10.0 [+7.0, +13.0]", "+1.0 [-2.0, +4.0]")
    [by_class] = (element for element in elements if isinstance(element, HeatMap))
    assert by_class.columns == ("<cat> (30)", "dog (10)")
    assert by_class.values == ((0.6, 0.5), (0.5, 0.5), (0.7, 0.5))
    assert by_class.rows == ("a backbone", "a projector", "b backbone")

"""The section on what can be read from a representation: both accuracies, level by level, and class by class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.dot_figure import draw_dots
from rcdm_cli.report.elements import DotChart, Dots, Element, HeatMap, Section, Sentence, Table
from rcdm_cli.report.numbers import percent, points
from rcdm_cli.report.run import write_run

ACCURACY, DIFFERENCE = "accuracy.png", "backbone-less-projector.png"
PROBES = (("linear", "linear"), ("knn", "k-NN"))


def write(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the charts as samples, ``results.json`` and ``report.html``; returns what stands in the JSON.

    Args:
        folder: of the run; made where it is missing.
        values: the results.
    """
    files = [ACCURACY, *([DIFFERENCE] if values["differences"] else [])]
    for file, chart in zip(files, _charts(values), strict=True):
        write_png(folder / file, draw_dots(chart))
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """Build it from what ``rcdm probe`` wrote."""
    found = results["results"]
    counts = results["validation_images_by_class"]
    classes = [index for index, count in enumerate(counts) if count]
    accuracies = Table(
        ("method", "level", "D", "linear", "linear over seeds", "k-NN", "k-NN over seeds", "L2 strength"),
        tuple(
            (
                one["method"],
                one["level"],
                str(one["width"]),
                *(text for key, _ in PROBES for text in (percent(one[key]), percent(one[key]["over_seeds"]))),
                f"{one['strength']:g}",
            )
            for one in found
        ),
        f"Accuracy in % on {results['validation_images']} validation images; always naming the most frequent class of"
        f" these gives {100 * results['majority']:.1f}. Columns linear and k-NN: learnt from all"
        f" {results['training_images']} training images, in brackets 95 % intervals of the bootstrap over the"
        f" validation images. Over seeds: means over {results['seeds']} bootstrap draws of the training images, in"
        " brackets 95 % intervals of Student's t over the draws; a draw holds about 63 % of the images, and the rest"
        f" choose its L2 strength. k-NN: weighted vote of the {results['neighbours']} nearest training images.",
    )
    compared = Table(
        ("method", *(f"{name}{over}" for _, name in PROBES for over in ("", " over seeds"))),
        tuple(
            (
                one["method"],
                *(text for key, _ in PROBES for text in (points(one[key]), points(one[key]["over_seeds"]))),
            )
            for one in results["differences"]
        ),
        "Backbone less projector in percentage points, paired by validation image and by draw: above 0, the backbone is"
        " ahead. Intervals as above.",
    )
    by_class = HeatMap(
        "Linear accuracy class by class",
        tuple(_name(one) for one in found),
        tuple(f"{results['classes'][index]} ({counts[index]})" for index in classes),
        tuple(tuple(one["by_class"][index] for index in classes) for one in found),
        0,
        1,
        "Share of each class's validation images that the linear classifier names rightly; in brackets, how many there"
        " are.",
    )
    elements: list[Element] = [*(Sentence(text) for text in answers(results)), *_charts(results), accuracies]
    if results["differences"]:
        elements.append(compared)
    return Section(
        "What can be read from the representation",
        "How well do a linear classifier and a vote of the nearest images read the class from h, and is it the backbone"
        " or the projector that they read better?",
        (*elements, by_class),
    )


def _charts(results: Mapping[str, Any]) -> list[DotChart]:
    """Accuracies of every representation and, where a method has both levels, what sets its backbone apart."""
    charts = [_chart("Accuracy", "accuracy in %", [(_name(one), one) for one in results["results"]], "")]
    if results["differences"]:
        named = [(one["method"], one) for one in results["differences"]]
        caption = "Right of 0, the backbone is ahead."
        charts.append(_chart("Backbone less projector", "percentage points", named, caption, zero=True))
    return charts


def _chart(
    title: str, x_label: str, named: Sequence[tuple[str, Mapping[str, Any]]], caption: str, zero: bool = False
) -> DotChart:
    series = []
    for key, name in PROBES:
        series.append(Dots(f"{name}, interval over images", tuple(_point(one[key]) for _, one in named)))
        over = tuple(_point(one[key]["over_seeds"]) for _, one in named)
        series.append(Dots(f"{name}, mean and interval over seeds", over))
    return DotChart(title, x_label, tuple(name for name, _ in named), tuple(series), caption, zero)


def _point(interval: Mapping[str, float]) -> tuple[float, float, float]:
    return 100 * interval["value"], 100 * interval["low"], 100 * interval["high"]


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['method']} {one['level']}"


def answers(results: Mapping[str, Any]) -> list[str]:
    """The sentences that the numbers support, for the page and for the terminal."""
    if not results["differences"]:
        best = max(results["results"], key=lambda one: float(one["linear"]["value"]))
        return [
            f"The highest accuracy of a linear classifier is that on {best['method']} at {best['level']} level:"
            f" {percent(best['linear'])} % of the images."
        ]
    sentences = []
    for kind, name in (("linear", "a linear classifier"), ("knn", "k-NN")):
        ahead, behind, open_ = _by_sign([(one["method"], one[kind]) for one in results["differences"]])
        clauses = [
            *([f"the backbone beats the projector for {_list(ahead)}"] if ahead else []),
            *([f"the projector beats the backbone for {_list(behind)}"] if behind else []),
            *([f"neither is ahead beyond doubt for {_list(open_)}"] if open_ else []),
        ]
        sentences.append(
            f"Read by {name}: {'; '.join(clauses)} (difference in percentage points, with 95 % intervals over images"
            f" and over {results['seeds']} seeds; ahead is what both intervals say)."
        )
    return sentences


def _by_sign(differences: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[list[str], list[str], list[str]]:
    """Methods with their differences: both intervals above 0, both below 0, and the others."""
    ahead, behind, open_ = [], [], []
    for method, one in differences:
        both = one, one["over_seeds"]
        name = f"{method} ({points(one)} over images, {points(one['over_seeds'])} over seeds)"
        if all(interval["low"] > 0 for interval in both):
            ahead.append(name)
        elif all(interval["high"] < 0 for interval in both):
            behind.append(name)
        else:
            open_.append(name)
    return ahead, behind, open_


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""The section on what can be read from a representation: both accuracies, level by level, and class by class."""

from collections.abc import Mapping, Sequence
from typing import Any

from rcdm_cli.report.elements import HeatMap, Section, Sentence, Table
from rcdm_cli.report.numbers import percent, points


def section(results: Mapping[str, Any]) -> Section:
    """Build it from what ``rcdm probe`` wrote."""
    found, differences = results["results"], results["differences"]
    counts = results["validation_photos_by_class"]
    classes = [index for index, count in enumerate(counts) if count]
    compared = Table(
        ("method", "linear: backbone less projector", "k-NN: backbone less projector"),
        tuple((one["method"], points(one["linear"]), points(one["knn"])) for one in differences),
        "In percentage points, on the same validation photos: above 0, the backbone is ahead.",
    )
    return Section(
        title="What can be read from the representation",
        question="How well do a linear classifier and a vote of the nearest photos read the class from h, and is it the"
        " backbone or the projector that they read better?",
        elements=(
            *(Sentence(text) for text in answers(results)),
            Table(
                ("method", "level", "D", "linear", "k-NN", "L2 strength"),
                tuple(
                    (
                        one["method"],
                        one["level"],
                        str(one["width"]),
                        percent(one["linear"]),
                        percent(one["knn"]),
                        f"{one['strength']:g}",
                    )
                    for one in found
                ),
                f"Accuracy in % on {results['validation_photos']} validation photos, learnt from"
                f" {results['training_photos']}; in brackets, 95 % intervals of the bootstrap over the validation"
                f" photos. Always naming the most frequent class gives {100 * results['majority']:.1f}. k-NN:"
                f" weighted vote of the {results['neighbours']} nearest training photos.",
            ),
            *((compared,) if differences else ()),
            HeatMap(
                "Linear accuracy class by class",
                tuple(f"{one['method']} {one['level']}" for one in found),
                tuple(f"{results['classes'][index]} ({counts[index]})" for index in classes),
                tuple(tuple(one["by_class"][index] for index in classes) for one in found),
                0,
                1,
                "Share of each class's validation photos that the linear classifier names rightly; in brackets, how"
                " many there are.",
            ),
        ),
    )


def answers(results: Mapping[str, Any]) -> list[str]:
    """The sentences that the numbers support, for the page and for the terminal."""
    if not results["differences"]:
        best = max(results["results"], key=lambda one: float(one["linear"]["value"]))
        return [
            f"The class is read best from {best['method']} at {best['level']} level: {percent(best['linear'])} % of the"
            " photos by a linear classifier."
        ]
    sentences = []
    for kind, name in (("linear", "a linear classifier"), ("knn", "k-NN")):
        ahead, behind, open_ = _by_sign([(one["method"], one[kind]) for one in results["differences"]])
        clauses = [
            *([f"the backbone beats the projector for {_list(ahead)}"] if ahead else []),
            *([f"the projector beats the backbone for {_list(behind)}"] if behind else []),
            *([f"neither is ahead beyond doubt for {_list(open_)}"] if open_ else []),
        ]
        sentences.append(f"Read by {name}: {'; '.join(clauses)} (difference in percentage points, 95 % interval).")
    return sentences


def _by_sign(differences: Sequence[tuple[str, Mapping[str, float]]]) -> tuple[list[str], list[str], list[str]]:
    """Methods with their differences: whole interval above 0, below 0, and around 0."""
    named = [(f"{method} ({points(one)})", one) for method, one in differences]
    ahead = [name for name, one in named if one["low"] > 0]
    behind = [name for name, one in named if one["high"] < 0]
    return ahead, behind, [name for name, one in named if one["low"] <= 0 <= one["high"]]


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

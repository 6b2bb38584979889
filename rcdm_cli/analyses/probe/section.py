"""Files and page section of a probe: accuracy of a linear classifier and of k-NN, by level and by class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rcdm_cli.analyses.left_out import left_out_sentence
from rcdm_cli.report.charts import save_chart
from rcdm_cli.report.elements import PAIR, DotChart, Dots, Element, HeatMap, Section, Sentence, table
from rcdm_cli.report.numbers import listed, name_of, percent, points
from rcdm_cli.report.run import write_run

ACCURACY, DIFFERENCE = "accuracy.png", "backbone-minus-projector.png"
PROBES = (("linear", "linear"), ("knn", "k-NN"))


def write(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the charts as PNGs, ``results.json`` and ``report.html``.

    Args:
        folder: Folder of the run, created if missing.
        values: Results.

    Returns:
        Content of ``results.json``.
    """
    files = [ACCURACY, *([DIFFERENCE] if values["differences"] else [])]
    for file, chart in zip(files, _charts(values), strict=True):
        save_chart(chart, folder / file)
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm probe``."""
    entries = results["results"]
    counts = results["validation_images_by_class"]
    classes = [index for index, count in enumerate(counts) if count]
    accuracies = table(
        entries,
        {
            **PAIR,
            "D": "{width}",
            "linear": lambda entry: percent(entry["linear"]),
            "linear over seeds": lambda entry: percent(entry["linear"]["over_seeds"]),
            "k-NN": lambda entry: percent(entry["knn"]),
            "k-NN over seeds": lambda entry: percent(entry["knn"]["over_seeds"]),
            "L2 strength": "{strength:g}",
        },
        f"Accuracy in % on {results['validation_images']} validation images. The accuracy of the most frequent class is"
        f" {100 * results['majority']:.1f} %. Linear and k-NN: trained on all {results['training_images']} training"
        " images; in brackets, 95 % bootstrap confidence intervals over the validation images. Over seeds: mean over"
        f" {results['seeds']} bootstrap resamples of the training images; in brackets, 95 % confidence intervals of"
        " Student's t over the resamples, cut at 0 % and 100 %. A resample contains about 63 % of the images, and the"
        f" other images select the L2 strength. k-NN: weighted vote of the {results['neighbours']} nearest training"
        " images.",
    )
    compared = table(
        results["differences"],
        {
            "method": "{method}",
            "linear": lambda difference: points(difference["linear"]),
            "linear over seeds": lambda difference: points(difference["linear"]["over_seeds"]),
            "k-NN": lambda difference: points(difference["knn"]),
            "k-NN over seeds": lambda difference: points(difference["knn"]["over_seeds"]),
        },
        "Accuracy of the backbone minus accuracy of the projector in percentage points, paired by validation image and"
        " by resample. Above 0: the backbone is better. Intervals as above.",
    )
    by_class = HeatMap(
        "Linear accuracy by class",
        tuple(name_of(entry) for entry in entries),
        tuple(f"{results['classes'][index]} ({counts[index]})" for index in classes),
        tuple(tuple(entry["by_class"][index] for index in classes) for entry in entries),
        0,
        1,
        "Fraction of correctly classified validation images of each class. In brackets: number of images.",
    )
    excluded = results.get("left_out", {})
    notes = [left_out_sentence(excluded.get(kind), f"{kind} images") for kind in ("training", "validation")]
    elements: list[Element] = [Sentence(text) for text in (*answers(results), *notes) if text]
    elements += [*_charts(results), accuracies]
    if results["differences"]:
        elements.append(compared)
    return Section(
        "Class information in the representation",
        "How accurately do a linear classifier and k-NN predict the class from the representation at each level?",
        (*elements, by_class),
    )


def _charts(results: Mapping[str, Any]) -> list[DotChart]:
    """Return the chart of accuracies, and the chart of differences for methods with both levels."""
    charts = [_chart("Accuracy", "accuracy in %", [(name_of(entry), entry) for entry in results["results"]], "")]
    if results["differences"]:
        named = [(difference["method"], difference) for difference in results["differences"]]
        caption = "Right of 0: the backbone is better."
        charts.append(_chart("Accuracy of backbone minus projector", "percentage points", named, caption, zero=True))
    return charts


def _chart(
    title: str, x_label: str, named: Sequence[tuple[str, Mapping[str, Any]]], caption: str, zero: bool = False
) -> DotChart:
    series = []
    for key, name in PROBES:
        series.append(Dots(f"{name}, 95 % interval over images", tuple(_point(entry[key]) for _, entry in named)))
        over = tuple(_point(entry[key]["over_seeds"]) for _, entry in named)
        series.append(Dots(f"{name}, 95 % interval over seeds", over))
    return DotChart(title, x_label, tuple(name for name, _ in named), tuple(series), caption, zero)


def _point(interval: Mapping[str, float]) -> tuple[float, float, float]:
    return 100 * interval["value"], 100 * interval["low"], 100 * interval["high"]


def answers(results: Mapping[str, Any]) -> list[str]:
    """Return the findings as sentences, for the page and for the terminal."""
    if not results["differences"]:
        best = max(results["results"], key=lambda entry: float(entry["linear"]["value"]))
        return [
            f"The linear classifier is most accurate on {name_of(best)}: {percent(best['linear'])} % of the images."
        ]
    sentences = []
    for kind, name in (("linear", "Linear classifier"), ("knn", "k-NN")):
        ahead, behind, open_ = _by_sign(
            [(difference["method"], difference[kind]) for difference in results["differences"]]
        )
        clauses = [
            *([f"the backbone is better than the projector for {listed(ahead)}"] if ahead else []),
            *([f"the projector is better than the backbone for {listed(behind)}"] if behind else []),
            *([f"no significant difference for {listed(open_)}"] if open_ else []),
        ]
        sentences.append(f"{name}: {'; '.join(clauses)}.")
    sentences.append(
        "Differences in percentage points with 95 % confidence intervals. A difference is significant if the intervals"
        f" over images and over {results['seeds']} seeds both exclude 0."
    )
    return sentences


def _by_sign(differences: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[list[str], list[str], list[str]]:
    """Return methods with both intervals above 0, methods with both intervals below 0, and the other methods."""
    ahead, behind, open_ = [], [], []
    for method, difference in differences:
        both = difference, difference["over_seeds"]
        name = f"{method} ({points(difference)} over images, {points(difference['over_seeds'])} over seeds)"
        if all(interval["low"] > 0 for interval in both):
            ahead.append(name)
        elif all(interval["high"] < 0 for interval in both):
            behind.append(name)
        else:
            open_.append(name)
    return ahead, behind, open_

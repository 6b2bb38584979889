"""The section on what a representation withstands, and the grids of attacked images and their samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.analyses.fgsm.samples import Shown
from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.elements import Element, Figure, Line, LineChart, Section, Sentence, Table
from rcdm_cli.report.grid import Group, Row, grid
from rcdm_cli.report.line_figure import draw_line_chart
from rcdm_cli.report.numbers import percent, points
from rcdm_cli.report.run import write_run

Pixels = NDArray[np.uint8]

TITLES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "drift": "PGD on the representation, without classes",
}

SCALES = " Different images are more alike at some levels than at others, so equal drifts need not mean equal changes."


def in_255ths(epsilon: float) -> str:
    """``0.00784`` → ``2/255``: steps of an 8-bit pixel are what a person can sample."""
    return f"{255 * epsilon:.3g}/255"


def draw(
    before_and_after: Sequence[Sequence[tuple[Pixels, Pixels]]], labels: Sequence[str], epsilons: Sequence[float]
) -> Pixels:
    """One image: a row a representation, and for each epsilon the attacked image and samples of what is then held.

    Args:
        before_and_after: by row and epsilon, the image uint8 (S, S, 3) and its samples uint8 (K, T, T, 3). Samples of
            one place in the row share their noise over the whole grid.
        labels: of the rows.
        epsilons: of the columns; the first is 0, the image itself.
    """
    first_image, first_samples = before_and_after[0][0]
    size = max(first_image.shape[0], first_samples.shape[1])
    rows = []
    for cells, label in zip(before_and_after, labels, strict=True):
        figures = [_enlarged(figure, size) for image, samples in cells for figure in (image, *samples)]
        rows.append(Row(figures, label))
    groups = [Group(f"epsilon {in_255ths(epsilon)}", 1 + len(first_samples)) for epsilon in epsilons]
    return grid(rows, groups)


def _enlarged(figure: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(figure).resize((size, size), Image.Resampling.NEAREST))


def write(folder: Path, values: Mapping[str, Any], shown: Sequence[Shown]) -> dict[str, Any]:
    """Write curves, a grid for each image shown, ``results.json`` and ``report.html``; returns what stands in the JSON.

    Args:
        folder: of the run.
        values: the results, without their samples.
        shown: what the grids show, of the first attack.
    """
    epsilons, attack = values["settings"]["epsilons"], values["settings"]["attacks"][0]
    figures = []
    for one in shown:
        image = values["images"][one.image]
        labels = [
            "\n".join([_name(found), *_changes(found["named"])])
            for found in image["representations"]
            if found["attack"] == attack
        ]
        file = f"attacked-{one.image:03d}.png"
        write_png(folder / file, draw(one.cells, labels, epsilons))
        figures.append({"file": file, "image": image["image"], "attack": attack})
    charts = _charts(values)
    for file, chart in charts.items():
        write_png(folder / file, draw_line_chart(chart))
    return write_run(folder, {**values, "figures": figures}, section, [*charts, *(one["file"] for one in figures)])


def _changes(named: Sequence[str]) -> list[str]:
    """The class named at epsilon 0, and those at the others that follow, each run of equal ones once."""
    runs = [name for i, name in enumerate(named) if i == 0 or name != named[i - 1]]
    return [name if i == 0 else f"→ {name}" for i, name in enumerate(runs)]


def section(results: Mapping[str, Any]) -> Section:
    """Build it from what ``rcdm fgsm`` wrote."""
    elements: list[Element] = [*(Sentence(text) for text in answers(results)), *_charts(results).values()]
    elements += [_table(results), *_compared(results)]
    elements += [
        Figure(
            one["file"],
            f"A grid for {one['image']}: a row for each method and level, and for each epsilon the image attacked with"
            f" {TITLES[one['attack']]} and samples of its representation.",
            f"{one['image']}, attacked with {TITLES[one['attack']]}. The samples at one place of each group share their"
            " noise, so what differs along a row is the representation. Beside each row: the class that its"
            " classifier names at each epsilon.",
        )
        for one in results["figures"]
    ]
    return Section(
        title="What the representation withstands",
        question="How far does a change of the image that is too small to see move its representation and the class"
        " that is read from it?",
        elements=tuple(elements),
    )


def answers(results: Mapping[str, Any]) -> list[str]:
    """The sentences that the numbers support, for the page and for the terminal."""
    sentences = []
    for attack in dict.fromkeys(one["attack"] for one in results["results"]):
        mine = [one for one in results["results"] if one["attack"] == attack]
        if mine[0]["kept_accuracy"]:
            order = sorted(mine, key=lambda one: float(one["kept_accuracy"]["value"]))
            least, most = (f"{_name(one)} ({percent(one['kept_accuracy'])} %)" for one in (order[0], order[-1]))
            sentences.append(
                f"{TITLES[attack]}: as a mean over the epsilons above 0, the classifier on {most} keeps "
                + (
                    f"the largest share of its accuracy and the one on {least} the smallest."
                    if len(mine) > 1
                    else "this share of its accuracy."
                )
            )
        order = sorted(mine, key=lambda one: float(one["drift"][-1]["value"]))
        least, most = (f"{_name(one)} ({_drift(one['drift'][-1])})" for one in (order[0], order[-1]))
        top = in_255ths(results["settings"]["epsilons"][-1])
        sentences.append(
            f"{TITLES[attack]}: at epsilon {top} the representation moves "
            + (f"least for {least} and most for {most}" if len(mine) > 1 else f"by {_drift(order[0]['drift'][-1])}")
            + ", as 1 − cosine similarity."
        )
        against = [one for one in results["against_supervised"] if one["attack"] == attack and one["kept_accuracy"]]
        if against:
            sentences.append(f"{TITLES[attack]}: {_against(against)}")
    if results["images_attacked"] == 1:
        sentences.append("Of one image, no interval has a width, and nothing is compared with the supervised encoder.")
    return sentences


def _against(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Who keeps more of its accuracy than the supervised encoder, who less, and who cannot be told."""
    named = [(f"{_name(one)} ({points(one['kept_accuracy'])})", one["kept_accuracy"]) for one in comparisons]
    parts = (
        ("more is kept by", [name for name, one in named if one["low"] > 0]),
        ("less by", [name for name, one in named if one["high"] < 0]),
        ("no difference is beyond doubt for", [name for name, one in named if one["low"] <= 0 <= one["high"]]),
    )
    clauses = "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)
    return f"against the supervised backbone, in percentage points of accuracy kept: {clauses}."


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['method']} {one['level']}"


def _drift(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _charts(results: Mapping[str, Any]) -> dict[str, LineChart]:
    """Accuracy and drift over epsilon under each attack, by the name of their sample's file."""
    charts, epsilons = {}, results["settings"]["epsilons"]
    for attack in dict.fromkeys(one["attack"] for one in results["results"]):
        mine = [one for one in results["results"] if one["attack"] == attack]
        title = TITLES[attack]
        if mine[0]["accuracy"]:
            accuracy = _chart(f"{title}: accuracy", "share of images named rightly", epsilons, mine, "accuracy")
            charts[f"{attack}-accuracy.png"] = accuracy
        drift = _chart(f"{title}: drift of h", "1 − cosine similarity", epsilons, mine, "drift", SCALES)
        charts[f"{attack}-drift.png"] = drift
    return charts


def _chart(
    title: str, y_label: str, epsilons: Sequence[float], curves: Sequence[Mapping[str, Any]], key: str, more: str = ""
) -> LineChart:
    x = tuple(255 * epsilon for epsilon in epsilons)
    lines = [
        Line(_name(one), x, *(tuple(point[bound] for point in one[key]) for bound in ("value", "low", "high")))
        for one in curves
    ]
    return LineChart(title, "epsilon (of 255)", y_label, tuple(lines), f"Bands: 95 % intervals over the images.{more}")


def _table(results: Mapping[str, Any]) -> Table:
    epsilons = results["settings"]["epsilons"]
    classified = bool(results["results"][0]["accuracy"])
    rows = []
    for one in results["results"]:
        values = [percent(point) for point in one["accuracy"]] or [_drift(point) for point in one["drift"]]
        rows.append((one["method"], one["level"], one["attack"], *values))
    what = "Accuracy in %" if classified else "Drift of the representation, 1 − cosine similarity,"
    return Table(
        ("method", "level", "attack", *(in_255ths(epsilon) for epsilon in epsilons)),
        tuple(rows),
        f"{what} on {results['images_attacked']} images at each epsilon, with 95 % intervals. No pixel of any image"
        f" changed by more than epsilon; the largest change was {in_255ths(_largest(results))}.",
    )


def _compared(results: Mapping[str, Any]) -> list[Table]:
    rows = [
        (
            one["method"],
            one["level"],
            one["attack"],
            points(one["robust_accuracy"]) if one["robust_accuracy"] else "–",
            points(one["kept_accuracy"]) if one["kept_accuracy"] else "–",
            f"{one['drift']['value']:+.3f} [{one['drift']['low']:+.3f}, {one['drift']['high']:+.3f}]",
        )
        for one in results["against_supervised"]
    ]
    caption = (
        "Each representation less the supervised backbone on the same images, as means over the epsilons above 0:"
        " accuracy in percentage points, share of the accuracy at epsilon 0 that is kept in percentage points, and"
        " drift as 1 − cosine. Above 0, the accuracy is higher, or the drift larger, than the supervised one's."
    )
    columns = ("method", "level", "attack", "accuracy", "accuracy kept", "drift")
    return [Table(columns, tuple(rows), caption)] if rows else []


def _largest(results: Mapping[str, Any]) -> float:
    return max(float(change) for one in results["results"] for change in one["largest_change"])

"""Files and page section of an attack: accuracy and drift over epsilon, image grids of attacked images."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcdm_cli.analyses.fgsm.results import AttackedSamples
from rcdm_cli.analyses.left_out import left_out_sentence
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid
from rcdm_cli.report.charts import save_chart
from rcdm_cli.report.elements import PAIR, Cell, Element, Line, LineChart, Section, Sentence, Table, table
from rcdm_cli.report.grids import grid_files, image_grid, write_grid
from rcdm_cli.report.numbers import interval, name_of, percent, points
from rcdm_cli.report.run import write_run

TITLES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "drift": "PGD on the representation",
}

_NOT_COMPARABLE = (
    " Representations differ in the similarity of different images, so drifts of different representations are not"
    " directly comparable."
)


def in_255ths(epsilon: float) -> str:
    """Return epsilon in steps of an 8-bit pixel: ``0.00784`` → ``2/255``."""
    return f"{255 * epsilon:.3g}/255"


def draw(
    before_and_after: Sequence[Sequence[tuple[Pixels, Pixels]]], labels: Sequence[str], epsilons: Sequence[float]
) -> PixelGrid:
    """Lay out one image: a row for each representation; the attacked image and its samples for each epsilon.

    Args:
        before_and_after: Image, uint8 (S, S, 3), and its samples, uint8 (K, T, T, 3), by row and epsilon.
        labels: Labels of the rows.
        epsilons: Largest pixel changes, from 0.
    """
    first_image, first_samples = before_and_after[0][0]
    size = max(first_image.shape[0], first_samples.shape[1])
    rows = []
    for cells, label in zip(before_and_after, labels, strict=True):
        cells_of_row = [_enlarged(pixels, size) for image, samples in cells for pixels in (image, *samples)]
        rows.append(GridRow(cells_of_row, label))
    groups = [GridGroup(f"epsilon {in_255ths(epsilon)}", 1 + len(first_samples)) for epsilon in epsilons]
    return PixelGrid(rows, groups)


def _enlarged(image: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST))


def write(folder: Path, values: Mapping[str, Any], samples: Sequence[AttackedSamples]) -> dict[str, Any]:
    """Write charts, an image grid for each sampled image, ``results.json`` and ``report.html``.

    Args:
        folder: Folder of the run.
        values: Results without samples.
        samples: Attacked images and their samples, of the first attack.

    Returns:
        Content of ``results.json``.
    """
    epsilons, attack = values["settings"]["epsilons"], values["settings"]["attacks"][0]
    grids = []
    for attacked in samples:
        image = values["images"][attacked.image]
        labels = [
            "\n".join([name_of(found), *_changes(found["predicted"])])
            for found in image["representations"]
            if found["attack"] == attack
        ]
        written = write_grid(folder, f"attacked-{attacked.image:03d}", draw(attacked.cells, labels, epsilons))
        grids.append({"image": image["image"], "attack": attack, "seeds": attacked.seeds, **written})
    charts = _charts(values)
    for file, chart in charts.items():
        save_chart(chart, folder / file)
    files = [*charts, *(file for grid in grids for file in grid_files(grid))]
    return write_run(folder, {**values, "grids": grids}, section, files)


def _changes(named: Sequence[str]) -> list[str]:
    """Return the predicted class at epsilon 0, and each change of the predicted class at larger epsilons."""
    runs = [name for i, name in enumerate(named) if i == 0 or name != named[i - 1]]
    return [name if i == 0 else f"→ {name}" for i, name in enumerate(runs)]


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm fgsm``."""
    texts = [*answers(results), left_out_sentence(results.get("left_out"), "images")]
    elements: list[Element] = [*(Sentence(text) for text in texts if text), *_charts(results).values()]
    elements += [_table(results), *([_compared(results)] if results["against_supervised"] else [])]
    for grid in results["grids"]:
        caption = (
            f"Each row: the image attacked with {TITLES[grid['attack']]} at each epsilon, and samples of its"
            " representation. Samples in one column have the same noise, so differences between epsilons are"
            " differences between representations. Row labels: the class predicted by the classifier at epsilon 0,"
            " then each changed prediction."
        )
        elements.append(image_grid(grid, caption, grid["image"]))
    return Section(
        "Robustness to adversarial attacks",
        "How much do small adversarial changes of an image change its representation and its predicted class?",
        tuple(elements),
    )


def answers(results: Mapping[str, Any]) -> list[str]:
    """Return the findings as sentences, for the page and for the terminal."""
    sentences = []
    for attack in dict.fromkeys(entry["attack"] for entry in results["results"]):
        mine = [entry for entry in results["results"] if entry["attack"] == attack]
        if mine[0]["relative_accuracy"]:
            order = sorted(mine, key=lambda entry: float(entry["relative_accuracy"]["value"]))
            least, most = (
                f"{name_of(entry)} ({percent(entry['relative_accuracy'])} %)" for entry in (order[0], order[-1])
            )
            sentences.append(
                f"{TITLES[attack]}: remaining fraction of the accuracy, mean over all epsilons above 0: "
                + (f"largest for {most}, smallest for {least}." if len(mine) > 1 else f"{most}.")
            )
        order = sorted(mine, key=lambda entry: float(entry["drift"][-1]["value"]))
        least, most = (f"{name_of(entry)} ({interval(entry['drift'][-1])})" for entry in (order[0], order[-1]))
        top = in_255ths(results["settings"]["epsilons"][-1])
        sentences.append(
            f"{TITLES[attack]}: drift of the representation (1 − cosine similarity) at epsilon {top}: "
            + (f"smallest for {least}, largest for {most}." if len(mine) > 1 else f"{least}.")
        )
        against = [
            comparison
            for comparison in results["against_supervised"]
            if comparison["attack"] == attack and comparison["relative_accuracy"]
        ]
        if against:
            sentences.append(f"{TITLES[attack]}: {_against(against)}")
    if results["images_attacked"] == 1:
        sentences.append(
            "Representations are not compared: with one image, bootstrap confidence intervals have no width."
        )
    return sentences


def _against(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """List the representations that are more robust, less robust and not different from the supervised backbone."""
    named = [
        (f"{name_of(comparison)} ({points(comparison['relative_accuracy'])})", comparison["relative_accuracy"])
        for comparison in comparisons
    ]
    parts = (
        ("more robust", [name for name, entry in named if entry["low"] > 0]),
        ("less robust", [name for name, entry in named if entry["high"] < 0]),
        ("no significant difference", [name for name, entry in named if entry["low"] <= 0 <= entry["high"]]),
    )
    clauses = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in parts if names)
    return f"remaining fraction of the accuracy, difference to the supervised backbone in percentage points: {clauses}."


def _charts(results: Mapping[str, Any]) -> dict[str, LineChart]:
    """Return charts of accuracy and drift over epsilon for each attack, by file name."""
    charts, epsilons = {}, results["settings"]["epsilons"]
    for attack in dict.fromkeys(entry["attack"] for entry in results["results"]):
        mine = [entry for entry in results["results"] if entry["attack"] == attack]
        title = TITLES[attack]
        if mine[0]["accuracy"]:
            accuracy = _chart(
                f"{title}: accuracy", "fraction of correctly classified images", epsilons, mine, "accuracy"
            )
            charts[f"{attack}-accuracy.png"] = accuracy
        drift = _chart(
            f"{title}: drift of the representation", "1 − cosine similarity", epsilons, mine, "drift", _NOT_COMPARABLE
        )
        charts[f"{attack}-drift.png"] = drift
    return charts


def _chart(
    title: str, y_label: str, epsilons: Sequence[float], curves: Sequence[Mapping[str, Any]], key: str, more: str = ""
) -> LineChart:
    x = tuple(255 * epsilon for epsilon in epsilons)
    lines = [
        Line(name_of(curve), x, *(tuple(point[bound] for point in curve[key]) for bound in ("value", "low", "high")))
        for curve in curves
    ]
    return LineChart(
        title,
        "epsilon in 1/255",
        y_label,
        tuple(lines),
        f"Bands: 95 % bootstrap confidence intervals over images.{more}",
    )


def _table(results: Mapping[str, Any]) -> Table:
    classified = bool(results["results"][0]["accuracy"])
    key, show = ("accuracy", percent) if classified else ("drift", interval)
    columns: dict[str, Cell] = {
        in_255ths(epsilon): partial(lambda i, entry: show(entry[key][i]), i)
        for i, epsilon in enumerate(results["settings"]["epsilons"])
    }
    measure = "Accuracy in %" if classified else "Drift of the representation (1 − cosine similarity)"
    largest = max(float(change) for entry in results["results"] for change in entry["largest_change"])
    return table(
        results["results"],
        {**PAIR, "attack": "{attack}", **columns},
        f"{measure} on {results['images_attacked']} images at each epsilon. In brackets: 95 % bootstrap confidence"
        f" intervals over images. The largest change of a pixel is {in_255ths(largest)}.",
    )


def _compared(results: Mapping[str, Any]) -> Table:
    return table(
        results["against_supervised"],
        {
            **PAIR,
            "attack": "{attack}",
            "accuracy": lambda comparison: points(comparison["robust_accuracy"]),
            "remaining accuracy": lambda comparison: points(comparison["relative_accuracy"]),
            "drift": lambda comparison: interval(comparison["drift"], "+.3f"),
        },
        "Each representation minus the supervised backbone on the same images, mean over all epsilons above 0: accuracy"
        " and remaining fraction of the accuracy in percentage points, drift as 1 − cosine similarity. Above 0: higher"
        " accuracy or larger drift than the supervised backbone. In brackets: 95 % bootstrap confidence intervals.",
    )

"""Files and page section of an invariance analysis: heat maps, samples before and after, numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid
from rcdm_cli.report.charts import save_chart
from rcdm_cli.report.elements import PAIR, Element, HeatMap, Section, Sentence, table
from rcdm_cli.report.grids import grid_files, image_grid, write_grid
from rcdm_cli.report.numbers import counted, interval, name_of
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.invariance.results import BeforeAndAfter, Invariance

MEASURES = {
    "relative": (
        "Relative similarity",
        "Similarity of the representations before and after the augmentation. 1: equal. 0: as different as the"
        " representations of two different images. Mean over images and strengths.",
    ),
    "cosine": (
        "Cosine similarity",
        "Cosine similarity of the representations before and after the augmentation. Mean over images and strengths.",
    ),
}


def heat_map(results: Mapping[str, Any], measure: str) -> HeatMap:
    """Return the heat map of representations and augmentations for ``relative`` or ``cosine`` similarity.

    The colour scale starts at 0, or at the lowest value if this is below 0, and ends at 1.
    """
    title, caption = MEASURES[measure]
    rows = results["representations"]
    values = tuple(
        tuple(
            augmentation["mean"][measure] and augmentation["mean"][measure]["value"]
            for augmentation in row["augmentations"]
        )
        for row in rows
    )
    finite = [value for row in values for value in row if value is not None]
    return HeatMap(
        title,
        tuple(name_of(row) for row in rows),
        tuple(augmentation["name"] for augmentation in results["augmentations"]),
        values,
        low=min([0.0, *finite]),
        high=1.0,
        caption=caption,
    )


def draw(result: "BeforeAndAfter", method: str) -> PixelGrid:
    """Lay out one method: a row for the original images and for each augmentation; image and samples of each level."""
    levels = {pair.level: samples for pair, samples in result.samples.items() if pair.method == method}
    num_samples, size = next(iter(levels.values())).shape[2:4]
    rows = []
    for r, label in enumerate(result.labels):
        cells: list[Pixels | None] = []
        for p, image in enumerate(result.images[r]):
            cells.append(center_crop(image, size))
            for samples in levels.values():
                cells += list(samples[r, p])
        rows.append(GridRow(cells, label))
    groups = [GridGroup("image", 1), *(GridGroup(level, num_samples) for level in levels)] * result.images.shape[1]
    return PixelGrid(rows, groups)


def write(result: "Invariance", folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write heat maps, image grids, ``results.json`` and ``report.html``.

    Args:
        result: Numbers.
        folder: Folder of the run, created if missing.
        about: Further content of ``results.json``: bundle, versions, hashes.

    Returns:
        Content of ``results.json``.
    """
    values: dict[str, Any] = {"kind": "invariance", **about, **result.as_json(), "grids": []}
    values["heat_maps"] = {measure: f"heat-map-{measure}.png" for measure in MEASURES}
    for measure, file in values["heat_maps"].items():
        save_chart(heat_map(values, measure), folder / file)
    if result.samples:
        for method in dict.fromkeys(pair.method for pair in result.samples.samples):
            written = write_grid(folder, f"before-and-after-{method}", draw(result.samples, method))
            values["grids"].append({"method": method, **written})
    files = [*values["heat_maps"].values(), *(file for grid in values["grids"] for file in grid_files(grid))]
    return write_run(folder, values, section, files)


def sentences(results: Mapping[str, Any]) -> list[str]:
    """Return one sentence per method with both levels, as far as the confidence intervals support a difference."""
    if results["images"] == 2:
        return ["Levels are not compared: with two images, bootstrap confidence intervals have no width."]
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for difference in results["projector_minus_backbone"]:
        by_method.setdefault(difference["method"], []).append(difference)
    return [_finding(results, method, found) for method, found in by_method.items()]


def _finding(results: Mapping[str, Any], method: str, differences: Sequence[Mapping[str, Any]]) -> str:
    more = [entry for entry in differences if entry["low"] > 0]
    less = [entry for entry in differences if entry["high"] < 0]
    text = (
        f"{method}: the projector is more invariant than the backbone to {len(more)} of"
        f" {counted(len(differences), 'augmentation')}{_listed(more)} and less invariant to {len(less)}{_listed(less)}."
    )
    clear = [*more, *less]
    if len(clear) < len(differences):
        text += " For the others, the 95 % confidence interval of the difference contains 0."
    if clear:
        name = max(clear, key=lambda entry: abs(float(entry["value"])))["augmentation"]
        projector, backbone = (
            interval(_relative(results, method, level, name), ".2f") for level in ("projector", "backbone")
        )
        text += (
            f" Largest difference: relative similarity {projector} at the projector and {backbone} at the backbone"
            f" under {name}."
        )
    return text


def _listed(differences: Sequence[Mapping[str, Any]]) -> str:
    return f" ({', '.join(entry['augmentation'] for entry in differences)})" if differences else ""


def _relative(results: Mapping[str, Any], method: str, level: str, name: str) -> Mapping[str, float]:
    row = next(entry for entry in results["representations"] if (entry["method"], entry["level"]) == (method, level))
    relative: Mapping[str, float] = next(
        augmentation for augmentation in row["augmentations"] if augmentation["name"] == name
    )["mean"]["relative"]
    return relative


def _most_and_least(results: Mapping[str, Any]) -> str:
    similarities = [
        (augmentation["mean"]["relative"]["value"], name_of(row), augmentation["name"])
        for row in results["representations"]
        for augmentation in row["augmentations"]
        if augmentation["mean"]["relative"]
    ]
    if not similarities:
        return "The representations of different images are equal, so relative similarity is not defined."
    (low, least, worst), (high, most, best) = min(similarities), max(similarities)
    return (
        f"Relative similarity over {results['images']} images is highest for {most} under {best} ({high:.2f}) and"
        f" lowest for {least} under {worst} ({low:.2f}). 1: the representation is unchanged. 0: as different as the"
        " representation of another image."
    )


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm invariance``."""
    elements: list[Element] = [Sentence(_most_and_least(results)), *map(Sentence, sentences(results))]
    elements += [heat_map(results, measure) for measure in MEASURES]
    if results["projector_minus_backbone"]:
        elements.append(
            table(
                results["projector_minus_backbone"],
                {"method": "{method}", "augmentation": "{augmentation}", "projector − backbone": interval},
                "Relative similarity of the projector minus relative similarity of the backbone, paired by image; mean"
                " over strengths. In brackets: 95 % bootstrap confidence interval of each difference, not corrected for"
                " multiple comparisons.",
            )
        )
    for grid in results["grids"]:
        caption = (
            "Each row: images after one augmentation at the last strength of the table below, and samples of each"
            " level. Samples in one column have the same noise, so differences between rows are differences between"
            " representations."
        )
        elements.append(image_grid(grid, caption, f"{grid['method']}: samples before and after augmentation"))
    steps = [
        {**row, "augmentation": augmentation["name"], **step}
        for row in results["representations"]
        for augmentation in row["augmentations"]
        for step in augmentation["strengths"]
    ]
    elements += [
        table(
            results["augmentations"],
            {
                "augmentation": "{name}",
                "strengths": lambda augmentation: ", ".join(augmentation["strengths"]),
                "description": "{what}",
            },
            f"Images are augmented at {results['size']} × {results['size']} pixels. On average,"
            f" {results['background_share']:.0%} of an image is background.",
        ),
        table(
            steps,
            {
                **PAIR,
                "augmentation": "{augmentation}",
                "strength": "{strength}",
                "cosine similarity": lambda step: interval(step["cosine"]),
                "relative similarity": lambda step: interval(step["relative"]),
            },
            "Means over images. In brackets: 95 % bootstrap confidence intervals over images.",
        ),
        table(
            results["representations"],
            {
                **PAIR,
                "cosine similarity of different images": lambda row: interval(row["similarity_of_different_images"]),
            },
            "Mean cosine similarity between different images, where relative similarity is 0.",
        ),
    ]
    return Section(
        "Invariance to augmentations",
        "How similar is the representation of an augmented image to the representation of the original image?",
        tuple(elements),
    )

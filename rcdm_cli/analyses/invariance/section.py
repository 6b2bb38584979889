"""Invariance as files: heat maps, samples before and after, the numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.analyses.visualize.section import CELL
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.elements import Element, Figure, HeatMap, Section, Sentence, Table
from rcdm_cli.report.grid import Group, Row, grid
from rcdm_cli.report.heat_figure import draw_heat_map
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.invariance.compute import Invariance
    from rcdm_cli.analyses.invariance.samples import BeforeAndAfter

Pixels = NDArray[np.uint8]

MEASURES = {
    "relative": (
        "similarity kept",
        "1: the representation is the same as before; 0: as different as that of another image. Mean over images and"
        " strengths.",
    ),
    "cosine": ("cosine similarity", "Of the representations before and after. Mean over images and strengths."),
}


def heat_map(results: Mapping[str, Any], measure: str) -> HeatMap:
    """Methods and levels × augmentations; ``measure`` is ``relative`` or ``cosine``.

    The scale goes from 0, or the lowest value where that is below 0, to 1.
    """
    title, caption = MEASURES[measure]
    rows = results["representations"]
    values = tuple(
        tuple(one["mean"][measure] and one["mean"][measure]["value"] for one in row["augmentations"]) for row in rows
    )
    known = [value for row in values for value in row if value is not None]
    return HeatMap(
        title,
        tuple(_name(row) for row in rows),
        tuple(one["name"] for one in results["augmentations"]),
        values,
        low=min([0.0, *known]),
        high=1.0,
        caption=caption,
    )


def draw(result: "BeforeAndAfter", method: str) -> Pixels:
    """Samples of one method: a row as it is and one an augmentation; for each image the image, then each level."""
    levels = {pair.level: samples for pair, samples in result.samples.items() if pair.method == method}
    num_samples, size = next(iter(levels.values())).shape[2:4]
    rows = []
    for r, label in enumerate(result.labels):
        cells: list[Pixels | None] = []
        for p, image in enumerate(result.images[r]):
            cells.append(center_crop(image, size))
            for samples in levels.values():
                cells += list(samples[r, p])
        rows.append(Row(cells, label))
    groups = [Group("image", 1), *(Group(level, num_samples) for level in levels)] * result.images.shape[1]
    return grid(rows, groups, scale=max(1, -(-CELL // size)))


def write(
    result: "Invariance", samples: "BeforeAndAfter | None", folder: Path, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write heat maps, samples, results and page into ``folder``; returns what stands in the JSON.

    Args:
        result: what to write.
        samples: before and after; None where none were sampled.
        folder: made where it is missing.
        about: what else the JSON holds: the bundle, versions, hashes.
    """
    values: dict[str, Any] = {"kind": "invariance", **about, **result.as_json(), "figures": []}
    values["heat_maps"] = {measure: f"heat-map-{measure}.png" for measure in MEASURES}
    for measure, file in values["heat_maps"].items():
        write_png(folder / file, draw_heat_map(heat_map(values, measure)))
    if samples is not None:
        values["samples"] = samples.as_json()
        for method in dict.fromkeys(pair.method for pair in samples.samples):
            file = f"before-and-after-{method}.png"
            write_png(folder / file, draw(samples, method))
            values["figures"].append({"method": method, "file": file})
    return write_run(
        folder, values, section, (*values["heat_maps"].values(), *(one["file"] for one in values["figures"]))
    )


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What the intervals support, one sentence a method that has both levels."""
    if results["images"] == 2:
        return ["All resamples of two images are alike, so that no interval has a width: levels are not compared."]
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for one in results["projector_minus_backbone"]:
        by_method.setdefault(one["method"], []).append(one)
    return [_finding(results, method, found) for method, found in by_method.items()]


def _finding(results: Mapping[str, Any], method: str, found: Sequence[Mapping[str, Any]]) -> str:
    more = [one for one in found if one["low"] > 0]
    less = [one for one in found if one["high"] < 0]
    text = (
        f"{method}: the projector keeps more of its similarity than the backbone under {len(more)} of {len(found)}"
        f" augmentations{_listed(more)}, less under {len(less)}{_listed(less)}"
    )
    clear = [*more, *less]
    text += "; for the others the 95 % interval of the difference holds 0." if len(clear) < len(found) else "."
    if clear:
        name = max(clear, key=lambda one: abs(float(one["value"])))["augmentation"]
        projector, backbone = (_shown(_kept(results, method, level, name), 2) for level in ("projector", "backbone"))
        text += f" {method}/projector keeps {projector} of its similarity under {name}; backbone {backbone}."
    return text


def _listed(found: Sequence[Mapping[str, Any]]) -> str:
    return f" ({', '.join(one['augmentation'] for one in found)})" if found else ""


def _kept(results: Mapping[str, Any], method: str, level: str, name: str) -> Mapping[str, float]:
    row = next(one for one in results["representations"] if (one["method"], one["level"]) == (method, level))
    kept: Mapping[str, float] = next(one for one in row["augmentations"] if one["name"] == name)["mean"]["relative"]
    return kept


def _shown(interval: Mapping[str, float], digits: int = 3) -> str:
    value, low, high = (f"{interval[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['method']} {row['level']}"


def _most_and_least(results: Mapping[str, Any]) -> str:
    kept = [
        (one["mean"]["relative"]["value"], _name(row), one["name"])
        for row in results["representations"]
        for one in row["augmentations"]
        if one["mean"]["relative"]
    ]
    if not kept:
        return "None of the representations tells the images apart, so nothing can be said of what they keep."
    (low, least, worst), (high, most, best) = min(kept), max(kept)
    return (
        f"Over {results['images']} images, {most} keeps most of its similarity, {high:.2f} under {best}, and {least}"
        f" least, {low:.2f} under {worst}: 1 is the same as before, 0 as different as another image."
    )


def section(results: Mapping[str, Any]) -> Section:
    """The findings, the heat maps, samples before and after, and every number."""
    elements: list[Element] = [Sentence(_most_and_least(results)), *map(Sentence, sentences(results))]
    elements += [heat_map(results, measure) for measure in MEASURES]
    if results["projector_minus_backbone"]:
        elements.append(
            Table(
                ("method", "augmentation", "projector − backbone"),
                tuple((one["method"], one["augmentation"], _shown(one)) for one in results["projector_minus_backbone"]),
                "Difference in similarity kept, paired by image; mean over strengths. In brackets, 95 % intervals, each"
                " for itself: of twenty such, one is expected to miss.",
            )
        )
    for one in results["figures"]:
        elements.append(
            Figure(
                one["file"],
                f"{one['method']}: an image as it is and after each augmentation, and samples of both at each level.",
                f"{one['method']}: each augmentation at the last strength of the table below. In a column, the noise is"
                " the same in all rows: what differs comes from the representation.",
            )
        )
    elements.append(
        Table(
            ("augmentation", "strengths", "what is done"),
            tuple((one["name"], ", ".join(one["strengths"]), one["what"]) for one in results["augmentations"]),
            f"Images are augmented at {results['size']} × {results['size']} pixels. Of an image,"
            f" {results['background_share']:.0%} was found to be background on average.",
        )
    )
    elements.append(
        Table(
            ("method", "level", "augmentation", "strength", "cosine", "kept"),
            tuple(
                _numbers(row, one["name"], step)
                for row in results["representations"]
                for one in row["augmentations"]
                for step in one["strengths"]
            ),
            "Means over images; in brackets, 95 % intervals of the bootstrap over images.",
        )
    )
    elements.append(
        Table(
            ("method", "level", "similarity of others"),
            tuple(
                (row["method"], row["level"], _shown(row["similarity_of_others"])) for row in results["representations"]
            ),
            "Mean cosine similarity between different images: where the scale of what is kept has its 0.",
        )
    )
    return Section(
        "What the representation does not notice",
        "How much of its similarity does a representation keep when an image is augmented?",
        tuple(elements),
    )


def _numbers(row: Mapping[str, Any], name: str, step: Mapping[str, Any]) -> tuple[str, ...]:
    cosine, relative = step["cosine"], step["relative"]
    kept = _shown(relative) if relative else "–"
    return row["method"], row["level"], name, step["strength"], _shown(cosine), kept

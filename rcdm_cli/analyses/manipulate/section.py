"""Files and page section of a manipulation: an image grid per (method, level), numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.analyses.training_distance import far_images
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid
from rcdm_cli.report.elements import PAIR, ImageGrid, Section, Sentence, table
from rcdm_cli.report.grids import grid_files, image_grid, write_grid
from rcdm_cli.report.numbers import name_of
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.manipulate.results import ManipulatedRepresentation, Manipulation

LABELS = {"source": "source", "without": "set to zero", "swapped": "target's values"}
"""Names of the rows on the page."""


def draw(
    manipulated: "ManipulatedRepresentation", source: Pixels, target: Pixels, candidates: Mapping[str, Pixels]
) -> PixelGrid:
    """Lay out one (method, level): the nearest neighbours with an image file, then the three rows of samples.

    Args:
        manipulated: Samples and neighbours.
        source: Source image, uint8 (H, W, 3).
        target: Target image, uint8 (H, W, 3).
        candidates: Images of the bank by key, uint8 (H, W, 3). The grid has at most as many neighbours as samples.
    """
    num_samples, size = manipulated.samples.shape[1:3]
    images = {"source": center_crop(source, size), "without": None, "swapped": center_crop(target, size)}
    rows = [
        GridRow([images[name], *manipulated.samples[i]], f"samples:\n{label}")
        for i, (name, label) in enumerate(LABELS.items())
    ]
    neighbours = [
        center_crop(candidates[neighbour.key], size)
        for neighbour in manipulated.neighbours
        if neighbour.key in candidates
    ]
    if neighbours:
        rows.insert(0, GridRow([None, *neighbours[:num_samples]], "nearest\nneighbours"))
    return PixelGrid(rows, [GridGroup("image", 1), GridGroup("", num_samples)])


def write(
    result: "Manipulation",
    source: Pixels,
    target: Pixels,
    candidates: Mapping[str, Pixels],
    folder: Path,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write image grids, ``results.json`` and ``report.html``.

    Args:
        result: Samples and numbers.
        source: Source image, uint8 (H, W, 3).
        target: Target image, uint8 (H, W, 3).
        candidates: Images of the bank by key, uint8 (H, W, 3).
        folder: Folder of the run, created if missing.
        about: Further content of ``results.json``: image names, bundle, versions, hashes.

    Returns:
        Content of ``results.json``.
    """
    values: dict[str, Any] = {"kind": "manipulate", **about, **result.as_json()}
    files: list[str] = []
    for (pair, manipulated), entry in zip(result.results.items(), values["representations"], strict=True):
        name = f"manipulation-{pair.method}-{pair.level}"
        entry["grid"] = write_grid(folder, name, draw(manipulated, source, target, candidates))
        files += grid_files(entry["grid"])
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm manipulate``."""
    entries = results["representations"]
    return Section(
        "Dimensions that encode an attribute",
        "Do the dimensions that are active in an image and in most of its nearest neighbours encode an attribute that"
        " can be removed and replaced?",
        (
            Sentence(_answer(entries)),
            Sentence(_how(results)),
            *far_images(results),
            *(_grid(entry) for entry in entries),
            table(
                [{**entry, **row} for entry in entries for row in entry["rows"]],
                {
                    **PAIR,
                    "dimensions": lambda row: LABELS[row["row"]],
                    "to own h": lambda row: f"{np.mean(row['similarity']):.3f}",
                    "to source": lambda row: f"{np.mean(row['to_source']):.3f}",
                    "to target": lambda row: f"{np.mean(row['to_target']):.3f}",
                },
                "Mean cosine similarity between the representation of a sample and three representations: the"
                " representation that the sample was generated from (own h), the source and the target.",
            ),
            table(
                entries,
                {**PAIR, "dimensions": lambda entry: ", ".join(map(str, entry["dimensions"])) or "none"},
                "Changed dimensions, counted from 0.",
            ),
            table(
                [{**entry, **near} for entry in entries for near in entry["neighbours"]],
                {**PAIR, "neighbour": "{key}", "similarity": "{similarity:.3f}"},
                "Nearest neighbours of the source, by cosine similarity.",
            ),
        ),
    )


def _how(results: Mapping[str, Any]) -> str:
    rule = results["rule"]
    by_threshold: dict[float, list[str]] = {}
    for entry in results["representations"]:
        by_threshold.setdefault(entry["threshold"], []).append(name_of(entry))
    near = sorted({len(entry["neighbours"]) for entry in results["representations"]})
    active = [
        ("not zero, as in the paper" if threshold == 0 else f"above {threshold:g} times its root mean square")
        + (f" ({', '.join(names)})" if len(by_threshold) > 1 else "")
        for threshold, names in by_threshold.items()
    ]
    return (
        f"A dimension is changed if its absolute value is {' or '.join(active)} in more than {rule['share']:.0%} of the"
        f" {' or '.join(map(str, near))} nearest neighbours of {results['source']} among {results['bank']} images. The"
        f" changed dimensions are set to zero, or to the values of {results['target']}."
    )


def _grid(entry: Mapping[str, Any]) -> ImageGrid:
    caption = (
        f"{len(entry['dimensions'])} of {entry['width']} dimensions are changed. They have {entry['energy']:.0%} of the"
        " squared length of the source representation. All rows have the same noise."
    )
    return image_grid(entry["grid"], caption, name_of(entry))


def _answer(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the change of similarity to the target at the (method, level) with the largest change."""
    most = max(entries, key=lambda entry: float(_moved(entry).mean()))
    rise = _moved(most)
    if rise.mean() <= 0:
        return "With the values of the target, samples are not more similar to the target at any level."
    return (
        f"With the values of the target in {len(most['dimensions'])} of {most['width']} dimensions, the cosine"
        f" similarity of samples to the target rises by {rise.mean():.3f} on average at {most['method']}"
        f" {most['level']}, where the rise is largest. The similarity rises for {(rise > 0).sum()} of {len(rise)}"
        " samples."
    )


def _moved(entry: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the change of similarity to the target by the target's values, for each sample: (K,)."""
    rows = {row["row"]: row for row in entry["rows"]}
    difference: NDArray[np.float64] = np.subtract(rows["swapped"]["to_target"], rows["source"]["to_target"])
    return difference

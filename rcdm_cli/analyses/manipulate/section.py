"""A manipulation as files: a grid for each (method, level), and the numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.analyses.visualize.section import CELL
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.elements import Figure, Section, Sentence, Table
from rcdm_cli.report.grid import Group, Row, grid
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.manipulate.compute import Manipulated, Manipulation

Pixels = NDArray[np.uint8]

LABELS = {"source": "source", "without": "without", "swapped": "with target's"}


def draw(found: "Manipulated", source: Pixels, target: Pixels, near: Mapping[str, Pixels]) -> Pixels:
    """The grid of one (method, level): nearest neighbours where their images are known, then the three rows.

    Args:
        found: what to draw.
        source: uint8 (H, W, 3).
        target: uint8 (H, W, 3).
        near: images uint8 (H, W, 3) by key; those of the neighbours are shown, as many as a row holds.
    """
    num_samples, size = found.samples.shape[1:3]
    images = {"source": center_crop(source, size), "without": None, "swapped": center_crop(target, size)}
    rows = [Row([images[name], *found.samples[i]], label) for i, (name, label) in enumerate(LABELS.items())]
    known = [center_crop(near[one.key], size) for one in found.neighbours if one.key in near]
    if known:
        rows.insert(0, Row([None, *known[:num_samples]], "nearest\nneighbours"))
    return grid(rows, [Group("image", 1), Group("samples", num_samples)], scale=max(1, -(-CELL // size)))


def write(
    result: "Manipulation",
    source: Pixels,
    target: Pixels,
    near: Mapping[str, Pixels],
    folder: Path,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write samples, results and page into ``folder``; returns what stands in the JSON.

    Args:
        result: what to write.
        source: uint8 (H, W, 3).
        target: uint8 (H, W, 3).
        near: images of neighbours by key, where there are images.
        folder: made where it is missing.
        about: what else the JSON holds: the images' names, the bundle, versions, hashes.
    """
    values, files = {"kind": "manipulate", **about, **result.as_json()}, []
    for (pair, found), entry in zip(result.found.items(), values["representations"], strict=True):
        entry["figure"] = f"manipulation-{pair.method}-{pair.level}.png"
        write_png(folder / entry["figure"], draw(found, source, target, near))
        files.append(entry["figure"])
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """For every (method, level): the rows, which dimensions were changed, and what that did."""
    found = results["representations"]
    return Section(
        "Attributes as dimensions",
        "Do the dimensions that an image shares with its neighbours carry an attribute that can be taken out and"
        " replaced?",
        (
            Sentence(_answer(found)),
            Sentence(_how(results)),
            *(_figure(one) for one in found),
            Table(
                ("method", "level", "row", "to its own h", "to source", "to target"),
                tuple(
                    (
                        one["method"],
                        one["level"],
                        LABELS[row["row"]],
                        *(f"{np.mean(row[key]):.3f}" for key in ("similarity", "to_source", "to_target")),
                    )
                    for one in found
                    for row in one["rows"]
                ),
                "Mean cosine similarity of the samples' representations.",
            ),
            Table(
                ("method", "level", "dimensions"),
                tuple((one["method"], one["level"], ", ".join(map(str, one["dimensions"])) or "none") for one in found),
                "The dimensions that were changed, counted from 0.",
            ),
            Table(
                ("method", "level", "neighbour", "similarity"),
                tuple(
                    (one["method"], one["level"], near["key"], f"{near['similarity']:.3f}")
                    for one in found
                    for near in one["neighbours"]
                ),
                "The nearest neighbours of the source, by cosine similarity.",
            ),
        ),
    )


def _how(results: Mapping[str, Any]) -> str:
    rule = results["rule"]
    by_threshold: dict[float, list[str]] = {}
    for one in results["representations"]:
        by_threshold.setdefault(one["threshold"], []).append(f"{one['method']} {one['level']}")
    near = sorted({len(one["neighbours"]) for one in results["representations"]})
    active = [
        ("not zero, as in the paper" if threshold == 0 else f"above {threshold:g} times its root mean square")
        + (f" ({', '.join(names)})" if len(by_threshold) > 1 else "")
        for threshold, names in by_threshold.items()
    ]
    return (
        f"A dimension is taken if its absolute value is {' or '.join(active)} in more than {rule['share']:.0%} of the"
        f" {' or '.join(map(str, near))} nearest neighbours of {results['source']} among {results['bank']} images. In"
        " the second row these dimensions are zero, in the third they have the values of"
        f" {results['target']}. All rows share their noise."
    )


def _figure(one: Mapping[str, Any]) -> Figure:
    where = f"{one['method']} at {one['level']} level"
    return Figure(
        one["figure"],
        f"Rows of samples for {where}: the source, without the shared dimensions, with the target's values there.",
        f"{where}: {len(one['dimensions'])} of {one['width']} dimensions, {one['energy']:.0%} of the source's squared"
        " length.",
    )


def _answer(found: Sequence[Mapping[str, Any]]) -> str:
    """How far the swap moved samples from the source to the target, where it did most."""
    most = max(found, key=lambda one: float(_moved(one).mean()))
    rise = _moved(most)
    if rise.mean() <= 0:
        return "With the target's values, samples come no nearer to the target's representation at any level."
    return (
        f"With the target's values, samples come nearer to the target most at {most['method']} {most['level']}: their"
        f" cosine similarity to its representation rises by {rise.mean():.3f} on average, and in {(rise > 0).sum()} of"
        f" {len(rise)} samples, through {len(most['dimensions'])} of {most['width']} dimensions."
    )


def _moved(one: Mapping[str, Any]) -> NDArray[np.float64]:
    """How much nearer to the target each sample is with the target's values than without a change: (K,)."""
    rows = {row["row"]: row for row in one["rows"]}
    difference: NDArray[np.float64] = np.subtract(rows["swapped"]["to_target"], rows["source"]["to_target"])
    return difference

"""A visualization as files: the grid, the samples one by one, the numbers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.analyses.visualize.sample_files import SampleFiles
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.colour import colour_map, legend
from rcdm_cli.report.elements import Figure, Section, Sentence, Table
from rcdm_cli.report.grid import Group, Row, beside, grid
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.visualize.compute import Visualization

Pixels = NDArray[np.uint8]
OptionalImage = Pixels | None
"""uint8 (H, W, 3); None where only its representation is known."""

CELL = 96
"""Samples smaller than this many pixels are enlarged by a whole factor in the grid."""

ON_PAGE = 100
"""Rows of the grid that the page shows; a longer grid has a second file with as many, for the page."""


def draw(result: "Visualization", images: Sequence[OptionalImage], count: int | None = None) -> Pixels:
    """The grid: for each image and method a row of the image, and for each level its samples and consensus map.

    Maps share one colour scale, from 0 to the largest spread in the grid; the legend beside it has the numbers.

    Args:
        result: what to draw.
        images: as given, in the order of ``result.names``.
        count: images to draw, from the first; None draws all.
    """
    levels = list(dict.fromkeys(pair.level for pair in result.pairs))
    methods = list(dict.fromkeys(pair.method for pair in result.pairs))
    num_samples = len(result.seeds[0])
    size = result.seen[result.pairs[0]][0].samples.shape[1]
    # Never 0: where all samples are equal, the map is one colour at the scale's low end.
    top = max(max(float(one.spread.max()) for seen in result.seen.values() for one in seen), 1 / 255)
    rows = []
    for i, name in enumerate(result.names[:count]):
        image = images[i]
        for method in methods:
            cells: list[Pixels | None] = [None if image is None else center_crop(image, size)]
            by_level = {pair.level: result.seen[pair][i] for pair in result.pairs if pair.method == method}
            for level in levels:
                if seen := by_level.get(level):
                    cells += [*seen.samples, colour_map(seen.spread / top)]
                else:
                    cells += [None] * (num_samples + 1)
            rows.append(Row(cells, f"{name}\n{method}"))
    groups = [Group("image", 1)]
    for level in levels:
        groups += [Group(f"{level}: samples", num_samples), Group("consensus", 1)]
    scale = max(1, -(-CELL // size))
    body = grid(rows, groups, scale=scale)
    return beside([body, legend(max(body.shape[0], 160), 0, top, "spread")])


def write(
    result: "Visualization", images: Sequence[OptionalImage], files: SampleFiles, about: dict[str, Any]
) -> dict[str, Any]:
    """Write ``grid.png``, results and page beside the samples; returns what stands in the JSON.

    Args:
        result: what to write.
        images: as given to ``draw``.
        files: where every sample has been written.
        about: what else the JSON holds: the bundle, versions, hashes.
    """
    values = {"kind": "visualize", **about, **result.as_json()}
    folder = files.folder
    for i, seeds in enumerate(result.seeds):
        values["images"][i]["samples"] = [files.name(i, pair, k) for pair in result.pairs for k in range(len(seeds))]
    written = ["grid.png", *(name for image in values["images"] for name in image["samples"])]
    write_png(folder / "grid.png", draw(result, images))
    shown = max(1, ON_PAGE // len({pair.method for pair in result.pairs}))
    values["shown"] = {"figure": "grid.png", "images": len(images)}
    if shown < len(images):
        values["shown"] = {"figure": "first.png", "images": shown}
        write_png(folder / "first.png", draw(result, images, shown))
        written.append("first.png")
    return write_run(folder, values, section, written)


def section(results: Mapping[str, Any]) -> Section:
    """The grid, what its numbers say, and the numbers of every image."""
    summary = results["summary"]
    images, shown = results["images"], results["shown"]
    rows = [
        (
            str(i + 1),
            image["image"],
            one["method"],
            one["level"],
            f"{sum(one['similarity']) / len(one['similarity']):.3f}",
            ", ".join(str(rank) for rank in one["rank"]),
            f"{one['mean_spread']:.3f}",
        )
        for i, image in enumerate(images[: shown["images"]])
        for one in image["representations"]
    ]
    part = f" Here are the first {shown['images']} of {len(images)} images." if shown["images"] < len(images) else ""
    num_samples = len(images[0]["seeds"])
    return Section(
        title="What the representation holds",
        question="What do all samples of a representation share, and what varies among them?",
        elements=(
            Sentence(_answer(results)),
            Figure(
                shown["figure"],
                f"A grid: for each of {shown['images']} images and each method, the image, {num_samples} samples at each"
                " level and a map of where the samples differ.",
                "What all samples of a row share, the representation holds; what varies, it has thrown away."
                " The map shows the standard deviation of each pixel over the samples, as a share of the pixel range."
                + part,
            ),
            Table(
                ("method", "level", "spread", "similarity", "mean reciprocal rank"),
                tuple(
                    (
                        one["method"],
                        one["level"],
                        f"{one['mean_spread']:.3f}",
                        f"{one['mean_similarity']:.3f}",
                        f"{one['mean_reciprocal_rank']:.3f}",
                    )
                    for one in summary
                ),
                f"Means over {len(images)} images and {num_samples} samples of each. Similarity: cosine of a sample's own"
                " representation to the one it was sampled for; rank: of that one among the images', 1 is nearest.",
            ),
            Table(
                ("image", "file", "method", "level", "similarity", "ranks", "spread"),
                tuple(rows),
                f"Each image at each method and level.{part}",
            ),
        ),
    )


def _answer(results: Mapping[str, Any]) -> str:
    """What the spreads say, as far as there is something to compare."""
    said = []
    for method in dict.fromkeys(one["method"] for one in results["summary"]):
        pairs = [
            tuple(one["mean_spread"] for one in image["representations"] if one["method"] == method)
            for image in results["images"]
        ]
        levels = [one for one in results["summary"] if one["method"] == method]
        shown = ", ".join(f"{one['mean_spread']:.3f} at {one['level']} level" for one in levels)
        said.append(f"{method}: the samples' mean spread is {shown}, as a share of the pixel range")
        if len(levels) == 2:
            wider = sum(projector > backbone for backbone, projector in pairs)
            said[-1] += f"; the projector's samples vary more for {wider} of {len(pairs)} images"
    return ". ".join(said) + "."

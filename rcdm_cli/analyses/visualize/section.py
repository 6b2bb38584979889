"""Files and page section of a visualization: image grid, samples, standard-deviation maps, numbers."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_cli.analyses.training_distance import far_images, input_noun
from rcdm_cli.analyses.visualize.sample_files import SampleFiles
from rcdm_cli.core.levels import LEVELS, Level, levels_by_depth
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import Pixels, write_png
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.charts import colour_bar, colour_map
from rcdm_cli.report.elements import PAIR, GridImage, ImageGrid, ImageGroup, ImageRow, Section, Sentence, table
from rcdm_cli.report.numbers import counted, listed, name_of
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.visualize.results import Visualization

PAGE_BYTES = 24 * 2**20
"""Maximum size of all PNGs on the page. A larger page would be slow to open."""

BRIGHTEST = 0.995
"""Quantile of the standard deviations of all maps that is drawn in the brightest colour."""


def draw(result: "Visualization", top: float) -> Pixels:
    """Draw the grid: one row per image and method, with the samples and the standard-deviation map of each level.

    The columns of the levels are ordered by depth. Methods without a common level share the columns.

    Args:
        result: Samples of all images.
        top: Standard deviation of the brightest colour of the maps.

    Returns:
        uint8 (height, width, 3). All maps have one colour scale, with a legend on the right. Without maps if there is
        one sample of each image.
    """
    columns = _columns(result.pairs)
    num_samples = len(result.seeds[0])
    with_map = num_samples > 1
    with_image = any(image is not None for image in result.images)
    size = result.results[result.pairs[0]][0].samples.shape[1]
    rows = []
    for i, name in enumerate(result.names):
        image = result.images[i]
        for method in dict.fromkeys(pair.method for pair in result.pairs):
            cells: list[Pixels | None] = [None if image is None else center_crop(image, size)] if with_image else []
            by_level = {pair.level: result.results[pair][i] for pair in result.pairs if pair.method == method}
            for levels in columns:
                if found := next((by_level[level] for level in levels if level in by_level), None):
                    cells += [*found.samples, *([] if found.spread is None else [colour_map(found.spread / top)])]
                else:
                    cells += [None] * (num_samples + with_map)
            rows.append(GridRow(cells, f"{name}\n{method}"))
    groups = [GridGroup("image", 1)] if with_image else []
    for levels in columns:
        groups += [
            GridGroup(f"{' / '.join(levels)}: samples", num_samples),
            *([GridGroup("std. dev.", 1)] if with_map else []),
        ]
    body = draw_grid(PixelGrid(rows, groups))
    if not with_map:
        return body
    bar = colour_bar(min(max(len(body), 200), 400), 0, top, "standard deviation / pixel range")
    canvas = np.full((max(len(body), len(bar)), body.shape[1] + bar.shape[1], 3), 255, np.uint8)
    canvas[: len(body), : body.shape[1]] = body
    canvas[: len(bar), body.shape[1] :] = bar
    return canvas


def _columns(pairs: Sequence[Pair]) -> list[list[Level]]:
    """Return the levels in each group of columns, by depth. Methods without a common level share the columns."""
    by_method: dict[str, list[Level]] = {}
    for pair in pairs:
        by_method.setdefault(pair.method, []).append(pair.level)
    levels = levels_by_depth(pairs)
    if len(levels) < len(pairs):
        return [[level] for level in levels]
    return [[level for level in column if level] for column in zip_longest(*by_method.values())]


def write(result: "Visualization", files: SampleFiles, about: dict[str, Any]) -> dict[str, Any]:
    """Write ``grid.png``, the standard-deviation maps, ``results.json`` and ``report.html`` beside the samples.

    Args:
        result: Samples of all images.
        files: Files of the samples, already written.
        about: Further content of ``results.json``: bundle, versions, hashes.

    Returns:
        Content of ``results.json``.
    """
    values = {"kind": "visualize", **about, **result.as_json()}
    folder, size = files.folder, result.results[result.pairs[0]][0].samples.shape[1]
    # A quantile, because a few bright pixels would make all maps dark. Above 0 also if all samples are equal.
    spreads = [entry.spread for found in result.results.values() for entry in found if entry.spread is not None]
    top = max(float(np.quantile(np.stack(spreads), BRIGHTEST)), 1 / 255) if spreads else None
    written, on_page, page_bytes = ["grid.png"], 0, 0
    for i, entry in enumerate(values["images"]):
        own = []
        image = result.images[i]
        entry["file"] = None if image is None else files.image_name(i)
        if image is not None:
            write_png(folder / entry["file"], center_crop(image, size))
            own.append(entry["file"])
        for pair, found in zip(result.pairs, entry["representations"], strict=True):
            found["samples"] = [files.name(i, pair, k) for k in range(len(entry["seeds"]))]
            own += found["samples"]
            spread, found["std_map"] = result.results[pair][i].spread, None
            if spread is not None and top is not None:
                found["std_map"] = files.name(i, pair, None)
                write_png(folder / found["std_map"], colour_map(spread / top))
                own.append(found["std_map"])
        page_bytes += sum((folder / name).stat().st_size for name in own)
        on_page += page_bytes <= PAGE_BYTES or i == 0
        written += own
    write_png(folder / "grid.png", draw(result, top or 1))
    return write_run(folder, values | {"map_top": top, "images_on_page": on_page}, section, written)


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm visualize``."""
    images, on_page = results["images"], results["images"][: results["images_on_page"]]
    num_samples = len(images[0]["seeds"])
    methods = list(dict.fromkeys(entry["method"] for entry in results["summary"]))
    noun = input_noun(results)
    part = f" This page shows the first {len(on_page)} of {len(images)} {noun}s." if len(on_page) < len(images) else ""
    deep = any(entry["level"] not in LEVELS for entry in results["summary"])
    by_depth = (
        " The levels of a method are ordered by depth, from the input of the encoder to its output." if deep else ""
    )
    title, question = (
        f"What {listed(methods)} encode{'s' if len(methods) == 1 else ''} of an image",
        "Samples are new images, generated from the representation of one image. What all samples have in common is"
        " encoded in the representation. What differs between samples is not.",
    )
    if noun == "vector":
        title = f"What vectors of {name_of(results['summary'][0])} encode"
        question = (
            "Samples are images, generated from one vector that no image produced. What all samples have in common is"
            " encoded in the vector. What differs between samples is not."
        )
    return Section(
        title,
        question,
        (
            Sentence(_findings(results)),
            *far_images(results),
            ImageGrid(
                f"Each row: {'' if noun == 'vector' else 'the input image, then '}{counted(num_samples, 'sample')} of"
                f" each {'vector' if noun == 'vector' else 'representation'}"
                f"{' and the map of their standard deviation' if num_samples > 1 else ''}.{by_depth} Hover over an"
                f" image for details, click to enlarge.{part}",
                tuple(_row(image, len(images)) for image in on_page),
                map_top=results["map_top"],
            ),
            table(
                results["summary"],
                {
                    **PAIR,
                    "standard deviation in %": lambda entry: _percent(entry["mean_spread"]),
                    "similarity": "{mean_similarity:.3f}",
                    "mean reciprocal rank": "{mean_reciprocal_rank:.3f}",
                },
                f"Means over {counted(len(images), noun)} with {counted(num_samples, 'sample')} each. Standard"
                f" deviation: root of the unbiased variance over the samples, averaged over pixels and {noun}s, in % of"
                " the pixel range. Similarity: cosine similarity between the representation of a sample and the"
                f" {'vector' if noun == 'vector' else 'representation of the image'}. Rank: position of the {noun}"
                f" among all {noun}s, ordered by similarity to the sample; 1 is best.",
            ),
            table(
                [
                    {"number": number, "file": image["image"], **entry}
                    for number, image in enumerate(on_page, 1)
                    for entry in image["representations"]
                ],
                {
                    noun: "{number}",
                    "file": "{file}",
                    **PAIR,
                    "similarity": lambda entry: f"{np.mean(entry['similarity']):.3f}",
                    "ranks": lambda entry: ", ".join(map(str, entry["rank"])),
                    "standard deviation in %": lambda entry: _percent(entry["mean_spread"]),
                },
                f"Numbers of each {noun}.{part}",
            ),
        ),
    )


def _row(image: Mapping[str, Any], num_images: int) -> ImageRow:
    name = image["image"]
    groups = []
    for entry in image["representations"]:
        similarity, spread = float(np.mean(entry["similarity"])), entry["mean_spread"]
        details = zip(entry["samples"], image["seeds"], entry["similarity"], entry["rank"], strict=True)
        cells = [
            GridImage(
                file,
                f"Sample {number} of {name_of(entry)} for {name}",
                (f"seed {seed}", f"similarity {own:.3f}", f"rank {rank} of {num_images}"),
            )
            for number, (file, seed, own, rank) in enumerate(details, 1)
        ]
        label = f"similarity {similarity:.2f}"
        if spread is not None:
            alt = f"Standard-deviation map of {name_of(entry)} for {name}"
            cells.append(GridImage(entry["std_map"], alt, (f"standard deviation {_percent(spread)} %",), "map"))
            label = f"std. dev. {_percent(spread)} % · {label}"
        groups.append(ImageGroup(label, tuple(cells), entry["method"], entry["level"], spread, similarity))
    own_image = GridImage(image["file"], f"Input image {name}", ("input image",), "image") if image["file"] else None
    return ImageRow(name, tuple(groups), own_image)


def _percent(spread: float | None) -> str:
    return "–" if spread is None else f"{100 * spread:.1f}"


def _findings(results: Mapping[str, Any]) -> str:
    """Compare the levels of each method, or give the standard deviation of each representation."""
    if any(entry["mean_spread"] is None for entry in results["summary"]):
        return (
            "The standard deviation of a single sample is undefined. Generate at least two samples of each"
            f" {input_noun(results)}."
        )
    both, single = [], []
    for method in dict.fromkeys(entry["method"] for entry in results["summary"]):
        levels = {
            entry["level"]: 100 * entry["mean_spread"] for entry in results["summary"] if entry["method"] == method
        }
        if levels.keys() == {"backbone", "projector"}:
            by_image = [
                {
                    entry["level"]: entry["mean_spread"]
                    for entry in image["representations"]
                    if entry["method"] == method
                }
                for image in results["images"]
            ]
            wider = sum(entry["projector"] > entry["backbone"] for entry in by_image)
            both.append(
                f"{method} {wider} of {len(by_image)} (standard deviation {levels['projector']:.1f} % against"
                f" {levels['backbone']:.1f} % of the pixel range)"
            )
        else:
            single += [f"{method} {level} {spread:.1f} %" for level, spread in levels.items()]
    sentences = []
    if both:
        sentences.append(
            f"Images for which the samples of the projector vary more than the samples of the backbone: {listed(both)}."
        )
    if single:
        sentences.append(f"Standard deviation of the samples, in % of the pixel range: {listed(single)}.")
    return " ".join(sentences)

"""An interpolation as files: a grid for each pair of images, an animation where asked for, the numbers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.analyses.visualize.section import CELL
from rcdm_cli.core.files import atomic_write
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.elements import Figure, Line, LineChart, Section, Sentence, Table
from rcdm_cli.report.grid import Group, Row, grid
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.interpolate.compute import Interpolation

Pixels = NDArray[np.uint8]

FRAME_MS = 150
"""How long a frame of an animation is shown, in milliseconds."""


OptionalImage = Pixels | None
"""uint8 (H, W, 3); None where only its representation is known."""


def draw(result: "Interpolation", number: int, images: tuple[OptionalImage, OptionalImage]) -> Pixels:
    """The grid of one pair of images: a row for each (method, level) and noise, from the first image to the second.

    Args:
        result: what to draw.
        number: of the pair of images.
        images: the two.
    """
    size = next(iter(result.journeys.values()))[number].samples.shape[2]
    ends = [None if image is None else center_crop(image, size) for image in images]
    rows = [
        Row([ends[0], *samples, ends[1]], f"{pair.method}\n{pair.level}\nnoise {k + 1}")
        for pair, journeys in result.journeys.items()
        for k, samples in enumerate(journeys[number].samples)
    ]
    frames = [Group(f"{position:.2g}", 1) for position in result.positions]
    return grid(rows, [Group("A", 1), *frames, Group("B", 1)], scale=max(1, -(-CELL // size)))


def animate(result: "Interpolation", number: int) -> list[Pixels]:
    """The samples of one pair of images as frames there and back; noises side by side, a row a (method, level)."""
    frames = []
    for position, _ in enumerate(result.positions):
        rows = [
            Row(list(journeys[number].samples[:, position]), f"{pair.method}\n{pair.level}")
            for pair, journeys in result.journeys.items()
        ]
        size = rows[0].images[0].shape[0]  # type: ignore[union-attr]
        columns = len(rows[0].images)
        header = [Group(f"{result.positions[position]:.2f}", columns)]
        frames.append(grid(rows, header, scale=max(1, -(-CELL // size))))
    return [*frames, *frames[-2:0:-1]]


def write_animation(path: Path, frames: Sequence[Pixels]) -> None:
    """Write frames uint8 (H, W, 3) as an endless WebP (lossless) or GIF, by the suffix, whole or not at all."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    kind: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {"disposal": 1}
    file = io.BytesIO()
    first.save(file, path.suffix[1:], save_all=True, append_images=rest, duration=FRAME_MS, loop=0, **kind)
    with atomic_write(path) as temporary:
        temporary.write_bytes(file.getvalue())


def write(
    result: "Interpolation",
    images: Sequence[tuple[OptionalImage, OptionalImage]],
    folder: Path,
    about: Mapping[str, Any],
    animation: str | None,
) -> dict[str, Any]:
    """Write samples, results and page into ``folder``; returns what stands in the JSON.

    Args:
        result: what to write.
        images: the pairs, in the order of ``result.names``.
        folder: made where it is missing.
        about: what else the JSON holds: the bundle, versions, hashes.
        animation: ``webp`` or ``gif``; None writes none.
    """
    values, files = {"kind": "interpolate", **about, **result.as_json()}, []
    for i, entry in enumerate(values["image_pairs"]):
        entry["figure"] = f"interpolation-{i:03d}.png"
        write_png(folder / entry["figure"], draw(result, i, images[i]))
        files.append(entry["figure"])
        if animation:
            entry["animation"] = f"interpolation-{i:03d}.{animation}"
            write_animation(folder / entry["animation"], animate(result, i))
            files.append(entry["animation"])
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """The grids, and how well samples follow the path."""
    summary, positions = results["summary"], results["positions"]
    means = ", ".join(f"{one['mean_similarity']:.3f} for {one['method']} {one['level']}" for one in summary)
    pairs = results["image_pairs"]
    noises = len(pairs[0]["seeds"])
    samples = [
        Figure(
            entry["figure"],
            f"Samples from {entry['a']} to {entry['b']} at {len(positions)} positions, a row for each method, level"
            " and noise.",
            f"A: {entry['a']}. B: {entry['b']}.",
        )
        for entry in pairs
    ] + [
        Figure(entry["animation"], f"The samples from {entry['a']} to {entry['b']} and back, one after the other.")
        for entry in pairs
        if "animation" in entry
    ]
    charts = [
        LineChart(
            title,
            "position from A (0) to B (1)",
            "cosine similarity",
            tuple(
                Line(f"{one['method']} {one['level']}", tuple(positions), tuple(one[f"{key}_by_position"]))
                for one in summary
            ),
            caption,
        )
        for key, title, caption in (
            ("similarity", "Similarity to the target", "Of each sample's representation to its point on the path."),
            ("to_b", "Similarity to B", "Of each sample's representation to that of the second image."),
        )
    ]
    return Section(
        "What lies between two images",
        f"What do samples show along the {results['path']} path from one representation to another?",
        (
            Sentence(
                f"Along the {results['path']} path, the mean cosine similarity of samples to their targets is {means},"
                f" over {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'} of images, {len(positions)} positions and"
                f" {noises} {'noise' if noises == 1 else 'noises'}."
            ),
            *samples,
            Table(
                ("method", "level", "distance A to B", "path length", "path length of samples", "similarity"),
                tuple(
                    (
                        one["method"],
                        one["level"],
                        f"{one['mean_distance']:.3f}",
                        f"{one['mean_length']:.3f}",
                        f"{one['mean_sample_length']:.3f}",
                        f"{one['mean_similarity']:.3f}",
                    )
                    for one in summary
                ),
                "Lengths are Euclidean, in the units of each representation, and not comparable between them; nor is"
                " the cosine similarity, since images are more alike at some levels than at others. The path length of"
                " samples runs through the samples' own representations.",
            ),
            *charts,
        ),
    )

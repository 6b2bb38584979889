"""Files and page section of an interpolation: an image grid per pair of images, animations, numbers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from rcdm_cli.analyses.training_distance import far_images, input_noun
from rcdm_cli.core.files import atomic_write
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid
from rcdm_cli.report.elements import PAIR, Element, Figure, Line, LineChart, Section, Sentence, table
from rcdm_cli.report.grids import grid_files, image_grid, write_grid
from rcdm_cli.report.numbers import counted, listed, name_of
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.interpolate.results import Interpolation

FRAME_MS = 150
"""Duration of one frame of an animation, in milliseconds."""


def draw(result: "Interpolation", number: int) -> PixelGrid:
    """Lay out one pair of images: a row for each (method, level) and noise, from the first to the second image."""
    size = next(iter(result.paths.values()))[number].samples.shape[2]
    ends = [None if image is None else center_crop(image, size) for image in result.images[number]]
    with_ends = any(end is not None for end in ends)
    rows = [
        GridRow(
            [ends[0], *samples, ends[1]] if with_ends else list(samples),
            f"{pair.method}\n{pair.level}\nnoise {k + 1}",
        )
        for pair, paths in result.paths.items()
        for k, samples in enumerate(paths[number].samples)
    ]
    frames = [GridGroup(f"{position:.2g}", 1) for position in result.positions]
    return PixelGrid(rows, [GridGroup("A", 1), *frames, GridGroup("B", 1)] if with_ends else frames)


def animate(result: "Interpolation", number: int) -> list[Pixels]:
    """Draw the frames of an animation from the first to the second image and back, with one column per noise."""
    frames = []
    for index, position in enumerate(result.positions):
        rows = [
            GridRow(list(paths[number].samples[:, index]), f"{pair.method}\n{pair.level}")
            for pair, paths in result.paths.items()
        ]
        frames.append(draw_grid(PixelGrid(rows, [GridGroup(f"{position:.2f}", len(rows[0].images))])))
    return [*frames, *frames[-2:0:-1]]


def write_animation(path: Path, frames: Sequence[Pixels]) -> None:
    """Write frames, uint8 (H, W, 3), as an endless lossless WebP or GIF, by the suffix of ``path``."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    kind: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {"disposal": 1}
    file = io.BytesIO()
    first.save(file, path.suffix[1:], save_all=True, append_images=rest, duration=FRAME_MS, loop=0, **kind)
    with atomic_write(path) as temporary:
        temporary.write_bytes(file.getvalue())


def write(result: "Interpolation", folder: Path, about: Mapping[str, Any], animation: str | None) -> dict[str, Any]:
    """Write image grids, animations, ``results.json`` and ``report.html``.

    Args:
        result: Samples and numbers.
        folder: Folder of the run, created if missing.
        about: Further content of ``results.json``: bundle, versions, hashes.
        animation: ``webp``, ``gif`` or None for no animation.

    Returns:
        Content of ``results.json``.
    """
    values: dict[str, Any] = {"kind": "interpolate", **about, **result.as_json()}
    files: list[str] = []
    for i, entry in enumerate(values["image_pairs"]):
        entry["grid"] = write_grid(folder, f"interpolation-{i:03d}", draw(result, i))
        files += grid_files(entry["grid"])
        if animation:
            entry["animation"] = f"interpolation-{i:03d}.{animation}"
            write_animation(folder / entry["animation"], animate(result, i))
            files.append(entry["animation"])
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm interpolate``."""
    summary, positions = results["summary"], results["positions"]
    means = listed([f"{entry['mean_similarity']:.3f} for {name_of(entry)}" for entry in summary])
    pairs = results["image_pairs"]
    noises, noun = len(pairs[0]["seeds"]), input_noun(results)
    of_b = "vector B" if noun == "vector" else "the representation of image B"
    between = "two vectors" if noun == "vector" else "the representations of two images"
    samples: list[Element] = []
    for entry in pairs:
        names = f"{entry['a']} (A) to {entry['b']} (B)"
        ends = ("", "") if noun == "vector" else ("image A, ", ", image B")
        caption = (
            f"Each row: {ends[0]}one sample at each position between A and B{ends[1]}. All samples of a row have the"
            " same noise."
        )
        samples.append(image_grid(entry["grid"], caption, f"From {names}"))
        if "animation" in entry:
            samples.append(Figure(entry["animation"], f"Animation of the samples from {names} and back"))
    charts = [
        LineChart(
            title,
            "position from A (0) to B (1)",
            "cosine similarity",
            tuple(Line(name_of(entry), tuple(positions), tuple(entry[f"{key}_by_position"])) for entry in summary),
            caption,
        )
        for key, title, caption in (
            (
                "similarity",
                "Similarity to the interpolated representation",
                "Cosine similarity between the representation of a sample and the interpolated representation.",
            ),
            (
                "to_b",
                "Similarity to B",
                f"Cosine similarity between the representation of a sample and {of_b}.",
            ),
        )
    ]
    return Section(
        f"Interpolation between two {noun}s",
        f"What do samples show along the {results['path']} path between {between}?",
        (
            Sentence(
                "Mean cosine similarity between the representation of a sample and the interpolated representation:"
                f" {means} (mean over {counted(len(pairs), 'pair')} of {noun}s, {counted(len(positions), 'position')}"
                f" and {counted(noises, 'noise')})."
            ),
            *far_images(results),
            *samples,
            table(
                summary,
                {
                    **PAIR,
                    "distance A to B": "{mean_distance:.3f}",
                    "path length": "{mean_length:.3f}",
                    "path length of the samples": "{mean_sample_length:.3f}",
                    "similarity": "{mean_similarity:.3f}",
                },
                "Euclidean lengths in the units of each representation. Path length of the samples: length of the path"
                " through the representations of the samples. Lengths and similarities of different representations are"
                " not comparable.",
            ),
            *charts,
        ),
    )

"""A visualization as files: the grid, the pictures one by one, the numbers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.analysis.visualize import Visualization
from rcdm_cli.files import write_json
from rcdm_cli.images.colour import colour_map, legend
from rcdm_cli.images.crop import center_crop
from rcdm_cli.images.grid import Group, Row, beside, grid
from rcdm_cli.images.write import write_png

Pixels = NDArray[np.uint8]

CELL = 96
"""Pictures smaller than this many pixels are enlarged by a whole factor in the grid."""


def draw(result: Visualization, photos: Sequence[Pixels]) -> Pixels:
    """The grid: for each photo and method a row of the photo, and for each level its samples and consensus map.

    Maps share one colour scale, from 0 to the largest spread in the grid; the legend beside it has the numbers.

    Args:
        result: what to draw.
        photos: uint8 (H, W, 3) as given, in the order of ``result.names``.
    """
    levels = list(dict.fromkeys(pair.level for pair in result.pairs))
    methods = list(dict.fromkeys(pair.method for pair in result.pairs))
    samples = len(result.seeds[0])
    size = result.seen[result.pairs[0]][0].pictures.shape[1]
    # Never 0: where all samples are equal, the map is one colour at the scale's low end.
    top = max(max(float(one.spread.max()) for seen in result.seen.values() for one in seen), 1 / 255)
    rows = []
    for i, name in enumerate(result.names):
        for method in methods:
            cells: list[Pixels | None] = [center_crop(photos[i], size)]
            by_level = {pair.level: result.seen[pair][i] for pair in result.pairs if pair.method == method}
            for level in levels:
                if seen := by_level.get(level):
                    cells += [*seen.pictures, colour_map(seen.spread / top)]
                else:
                    cells += [None] * (samples + 1)
            rows.append(Row(cells, f"{name}\n{method}"))
    groups = [Group("photo", 1)]
    for level in levels:
        groups += [Group(f"{level}: samples", samples), Group("consensus", 1)]
    scale = max(1, -(-CELL // size))
    body = grid(rows, groups, scale=scale)
    return beside([body, legend(max(body.shape[0], 160), 0, top, "spread")])


def write(result: Visualization, photos: Sequence[Pixels], folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write ``grid.png``, ``samples/`` and ``results.json`` into ``folder``; returns what stands in the JSON.

    Args:
        result: what to write.
        photos: as given to ``draw``.
        folder: made where it is missing.
        about: what else the JSON holds: the bundle, versions, hashes.
    """
    values = {**about, **result.as_json()}
    for i, name in enumerate(result.names):
        stem = f"{i:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(name).stem)[:60]}"
        files = []
        for pair in result.pairs:
            for k, picture in enumerate(result.seen[pair][i].pictures):
                path = Path("samples") / stem / f"{pair.method}-{pair.level}-{k:02d}.png"
                write_png(folder / path, picture)
                files.append(path.as_posix())
        values["photos"][i]["pictures"] = files
    write_png(folder / "grid.png", draw(result, photos))
    write_json(folder / "results.json", values)
    return values

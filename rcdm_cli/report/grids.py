"""Image grids: one PNG for papers, and the single images for the page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rcdm_cli.data.image_file import write_png
from rcdm_cli.data.image_grid import PixelGrid, draw_grid
from rcdm_cli.report.elements import GridImage, ImageGrid, ImageGroup, ImageRow


def write_grid(folder: Path, name: str, content: PixelGrid) -> dict[str, Any]:
    """Write ``name.png`` with the whole grid and ``name/ROW-COLUMN.png`` with each image.

    Returns:
        JSON-able description with the files, for ``grid_files`` and ``image_grid``.
    """
    write_png(folder / f"{name}.png", draw_grid(content))
    rows = []
    for r, row in enumerate(content.rows):
        files: list[str | None] = []
        for c, image in enumerate(row.images):
            files.append(None if image is None else f"{name}/{r:02d}-{c:02d}.png")
            if image is not None:
                write_png(folder / f"{name}/{r:02d}-{c:02d}.png", image)
        starts = [sum(group.columns for group in content.groups[:index]) for index in range(len(content.groups))]
        groups = [
            {"label": group.label, "images": files[start : start + group.columns]}
            for group, start in zip(content.groups, starts, strict=True)
        ]
        rows.append({"label": row.label, "groups": groups})
    return {"figure": f"{name}.png", "rows": rows}


def grid_files(grid: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files of a grid, relative to the folder of the run."""
    yield grid["figure"]
    for row in grid["rows"]:
        for group in row["groups"]:
            yield from (file for file in group["images"] if file is not None)


def image_grid(grid: Mapping[str, Any], caption: str, title: str = "") -> ImageGrid:
    """Return the page element of a grid that ``write_grid`` has written."""
    return ImageGrid(caption, tuple(_row(row) for row in grid["rows"]), title)


def _row(row: Mapping[str, Any]) -> ImageRow:
    return ImageRow(row["label"], tuple(ImageGroup(group["label"], _images(row, group)) for group in row["groups"]))


def _images(row: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[GridImage | None, ...]:
    files: Sequence[str | None] = group["images"]
    where = ", ".join(part.replace("\n", " ") for part in (row["label"], group["label"]) if part)
    return tuple(
        None if file is None else GridImage(file, f"{where}, image {number}" if len(files) > 1 else where)
        for number, file in enumerate(files, 1)
    )

"""Rows of images with labels, laid out as one image. Values are shown as they are: nothing is stretched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.core.errors import InputError
from rcdm_cli.report.text import draw_lines, line_height, text_width

Pixels = NDArray[np.uint8]

_PAPER = 255


@dataclass(frozen=True)
class Row:
    """Images side by side, with a label on the left; None leaves a cell empty, as does a row that ends early."""

    images: Sequence[Pixels | None]
    label: str = ""


@dataclass(frozen=True)
class Group:
    """Neighbouring columns under one header, set apart from the next group by a gap."""

    label: str
    columns: int


def grid(
    rows: Sequence[Row],
    groups: Sequence[Group] = (),
    scale: int = 1,
    margin: int = 4,
    text: int = 14,
    widest_label: int = 240,
) -> Pixels:
    """Compose ``rows`` into one image on white.

    Labels may have several lines. What does not fit is shortened in its middle, so no text is cut off or covered.

    Args:
        rows: images of one size, uint8 (H, W, 3).
        groups: headers above the columns, from the left; together they cover every column. None: no headers.
        scale: each pixel becomes ``scale`` x ``scale`` pixels.
        margin: pixels between images and around everything; groups are five margins apart.
        text: size of the font in pixels.
        widest_label: pixels that row labels may take.

    Returns:
        uint8 (height, width, 3).

    Raises:
        InputError: no image, images of several sizes, or groups that do not cover the columns.
    """
    height, width = _cell(rows, scale)
    columns = max(len(row.images) for row in rows)
    groups = groups or (Group("", columns),)
    if sum(group.columns for group in groups) != columns:
        given = " + ".join(str(group.columns) for group in groups)
        raise InputError(f"The groups of a grid cover {given} columns, and its rows have {columns}.")

    lines = [line for row in rows for line in row.label.split("\n")]
    label_width = min(widest_label, max(text_width(line, text) for line in lines))
    left = margin + (label_width + 2 * margin if label_width else 0)
    lefts, spans = _columns(groups, left, width, margin)
    header = max(_lines_height(group.label, text) for group in groups)
    heights = [max(height, _lines_height(row.label, text)) for row in rows]
    top = margin + (header + margin if header else 0)

    canvas = np.full((top + sum(heights) + margin * len(rows), lefts[-1] + width + margin, 3), _PAPER, np.uint8)
    for group, (start, span) in zip(groups, spans, strict=True):
        draw_lines(canvas, group.label, text, (start, margin, span, header), centred=True)
    for row, row_height in zip(rows, heights, strict=True):
        draw_lines(canvas, row.label, text, (margin, top, label_width, row_height))
        y = top + (row_height - height) // 2
        for x, image in zip(lefts, row.images, strict=False):
            if image is not None:
                canvas[y : y + height, x : x + width] = image.repeat(scale, axis=0).repeat(scale, axis=1)
        top += row_height + margin
    return canvas


def beside(images: Sequence[Pixels], margin: int = 4) -> Pixels:
    """Images uint8 (H, W, 3) of any sizes in one line, aligned at the top, white below the shorter ones."""
    height = max(image.shape[0] for image in images)
    gap = np.full((height, margin, 3), _PAPER, np.uint8)
    parts: list[Pixels] = []
    for image in images:
        below = ((0, height - image.shape[0]), (0, 0), (0, 0))
        parts += [gap, np.pad(image, below, constant_values=_PAPER)]
    return np.concatenate(parts[1:], axis=1)


def _cell(rows: Sequence[Row], scale: int) -> tuple[int, int]:
    shapes = {image.shape for row in rows for image in row.images if image is not None}
    if len(shapes) != 1:
        given = ", ".join(str(shape) for shape in sorted(shapes)) or "none"
        raise InputError(f"The images of a grid must all have one size (H, W, 3); given: {given}.")
    height, width, _ = shapes.pop()
    return height * scale, width * scale


def _lines_height(label: str, text: int) -> int:
    return line_height(text) * (label.count("\n") + 1) if label else 0


def _columns(groups: Sequence[Group], left: int, width: int, margin: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The left edge of every column, and the left edge and width of every group."""
    lefts: list[int] = []
    spans: list[tuple[int, int]] = []
    for group in groups:
        spans.append((left, group.columns * (width + margin) - margin))
        lefts += [left + column * (width + margin) for column in range(group.columns)]
        left = lefts[-1] + width + 5 * margin
    return lefts, spans

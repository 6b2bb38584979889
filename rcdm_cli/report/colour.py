"""Numbers as colours: one perceptually uniform map, and the legend that explains it."""

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.core.errors import InputError
from rcdm_cli.report.text import draw_lines, line_height, text_width

_ANCHORS = np.array(
    [
        tuple(bytes.fromhex(colour))
        for colour in (
            *("440154", "481a6c", "472f7d", "414487", "39568c", "31688e", "2a788e", "23888e"),
            *("1f988b", "22a884", "35b779", "54c568", "7ad151", "a5db36", "d2e21b", "fde725"),
        )
    ],
    np.float64,
)
"""Viridis at sixteen even steps (Smith and van der Walt 2015, CC0): its lightness grows evenly, in colour or grey."""

_BAR = 16
_GAP = 4


def colour_map(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values (H, W) to colours uint8 (H, W, 3): 0 is dark violet, 1 is bright yellow; values beyond are clipped.

    The values are taken as they are, so images made with the same scale can be compared.

    Raises:
        InputError: a value is NaN, for which there is no colour.
    """
    if np.isnan(values).any():
        raise InputError("A map of colours was given NaN; leave such values out before.")
    steps = np.linspace(0, 1, len(_ANCHORS))
    channels = [np.interp(values, steps, channel) for channel in _ANCHORS.T]
    colours: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def legend(height: int, low: float, high: float, label: str, text: int = 14) -> NDArray[np.uint8]:
    """A vertical bar in the colours of ``colour_map``, with ``label`` above it and its values beside it.

    Args:
        height: of the whole legend in pixels.
        low: what 0 of ``colour_map`` stands for, at the bottom.
        high: what 1 stands for, at the top; halfway between stands in the middle.
        label: one line that names the quantity and its unit.
        text: size of the font in pixels.

    Returns:
        uint8 (height, W, 3), as wide as its texts need.

    Raises:
        InputError: ``height`` has no room for the label and three values.
    """
    line = line_height(text)
    if height < 4 * line:
        raise InputError(f"A legend needs {4 * line} pixels of height for a font of {text}, not {height}.")
    ticks = [f"{value:.3g}" for value in (high, (low + high) / 2, low)]
    tick_width = max(text_width(tick, text) for tick in ticks)
    width = max(text_width(label, text), _BAR + 2 * _GAP + tick_width)
    canvas = np.full((height, width, 3), 255, np.uint8)
    draw_lines(canvas, label, text, (0, 0, width, line))

    # Half a line is left free at both ends of the bar, for the values that stand beside its ends.
    top, bottom = line + line // 2, height - line // 2
    canvas[top:bottom, :_BAR] = colour_map(np.linspace(1, 0, bottom - top)[:, None])
    for tick, y in zip(ticks, (top, (top + bottom - 1) // 2, bottom - 1), strict=True):
        canvas[y, _BAR : _BAR + _GAP] = 32
        draw_lines(canvas, tick, text, (_BAR + 2 * _GAP, y - line // 2, tick_width, line))
    return canvas

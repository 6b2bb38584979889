"""Round numbers along an axis, and how much room a text takes in a drawing."""

import math
import unicodedata


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About ``count`` round numbers, 1, 2 or 5 times a power of ten apart, whose ends enclose [low, high].

    Where all values are equal but for rounding, a range around them is taken, so that an axis always has a length.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # A product, not a sum of steps: rounding errors must not add up to 0.30000000000000004.
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def text_width(text: str, size: float = 13) -> float:
    """Pixels that ``text`` takes at most in a font of ``size`` pixels: nobody knows the reader's font."""
    return size * sum(1.05 if unicodedata.east_asian_width(sign) in "WF" else 0.62 for sign in text)

"""Photos with other colours: uint8 (H, W, 3) in, the same out. Pillow does the work."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

Pixels = NDArray[np.uint8]


def with_brightness(photo: Pixels, factor: float) -> Pixels:
    """All values multiplied by ``factor`` and clipped."""
    return np.array(ImageEnhance.Brightness(Image.fromarray(photo)).enhance(factor))


def with_contrast(photo: Pixels, factor: float) -> Pixels:
    """Differences from the mean grey of the photo multiplied by ``factor``."""
    return np.array(ImageEnhance.Contrast(Image.fromarray(photo)).enhance(factor))


def with_saturation(photo: Pixels, factor: float) -> Pixels:
    """Differences of each pixel from its grey multiplied by ``factor``: 0 is a grey photo."""
    return np.array(ImageEnhance.Color(Image.fromarray(photo)).enhance(factor))


def with_hue_turned(photo: Pixels, turn: float) -> Pixels:
    """All hues moved by ``turn`` of the colour circle, in steps of 1/256."""
    hsv = np.array(Image.fromarray(photo).convert("HSV"))
    # Pillow's hue is a byte for the whole circle: adding wraps around as it should.
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))

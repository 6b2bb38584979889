"""Centre crop of encoders and denoisers, identical to the published crop in every pixel."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.core.errors import InputError

LONGEST = 100
"""Maximum ratio of the longer to the shorter side of an image."""


def center_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the shorter side of ``image`` to ``size`` pixels and return the central square.

    The image is halved with a box filter while the shorter side is at least 2 * size, then resized with a bicubic
    filter, as in guided-diffusion (Dhariwal and Nichol 2021) and RCDM.

    Args:
        image: uint8 (H, W, 3).
        size: height and width of the crop in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        InputError: one side of ``image`` is more than LONGEST times the other.
    """
    pil = Image.fromarray(image)
    if reason := too_narrow(*pil.size):
        raise InputError(f"An image cannot be cropped: {reason}.")
    pil = _halved(pil, size)
    scale = size / min(pil.size)
    pil = pil.resize((round(pil.width * scale), round(pil.height * scale)), Image.Resampling.BICUBIC)
    left, top = (pil.width - size) // 2, (pil.height - size) // 2
    return np.array(pil.crop((left, top, left + size, top + size)))


def halved(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Halve ``image`` (H, W, 3) while its centre crops of up to ``size`` pixels stay identical."""
    return np.array(_halved(Image.fromarray(image), size))


def too_narrow(width: int, height: int) -> str:
    """Return the reason why an image of this size has no square crop, or an empty string."""
    shorter, longer = sorted((width, height))
    if longer <= LONGEST * shorter:
        return ""
    return (
        f"{width} x {height} pixels are too narrow for a square crop;"
        f" the longer side may be at most {LONGEST} times the shorter side"
    )


def _halved(pil: Image.Image, size: int) -> Image.Image:
    while min(pil.size) >= 2 * size:
        pil = pil.resize((pil.width // 2, pil.height // 2), Image.Resampling.BOX)
    return pil

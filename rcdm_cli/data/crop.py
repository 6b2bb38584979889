"""The published centre crop, to the pixel: what an encoder and a denoiser see of an image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.core.errors import InputError

LONGEST = 100
"""How many times longer than wide an image may be: the crop would show one part in LONGEST of it at most."""


def center_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shrink the shorter side of ``image`` to ``size`` pixels and keep the central square.

    The image is halved with a box filter while it is at least twice too large, then resized once with a bicubic
    filter: a single bicubic step from a large image would be blurred more (Dhariwal and Nichol 2021, guided-diffusion;
    kept by RCDM).

    Args:
        image: uint8 (H, W, 3).
        size: pixels along each side of the result.

    Returns:
        uint8 (size, size, 3).

    Raises:
        InputError: ``image`` is more than LONGEST times as long as it is wide.
    """
    pil = Image.fromarray(image)
    if why := too_narrow(*pil.size):
        raise InputError(f"An image cannot be cropped: {why}.")
    pil = _halved(pil, size)
    scale = size / min(pil.size)
    pil = pil.resize((round(pil.width * scale), round(pil.height * scale)), Image.Resampling.BICUBIC)
    left, top = (pil.width - size) // 2, (pil.height - size) // 2
    return np.array(pil.crop((left, top, left + size, top + size)))


def halved(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """``image`` (H, W, 3) as small as it can be with the same centre crops of up to ``size`` pixels."""
    return np.array(_halved(Image.fromarray(image), size))


def too_narrow(width: int, height: int) -> str:
    """Why an image of this many pixels has no square crop; empty where it has one."""
    shorter, longer = sorted((width, height))
    if longer <= LONGEST * shorter:
        return ""
    return f"{width} x {height} pixels are too narrow for a square; it may be {LONGEST} times as long as wide"


def _halved(pil: Image.Image, size: int) -> Image.Image:
    while min(pil.size) >= 2 * size:
        pil = pil.resize((pil.width // 2, pil.height // 2), Image.Resampling.BOX)
    return pil

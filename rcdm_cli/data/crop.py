"""The published centre crop, to the pixel: what an encoder and a denoiser see of a photo."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.core.errors import InputError

LONGEST = 100
"""How many times longer than wide a photo may be: the crop would show one part in LONGEST of it at most."""


def center_crop(photo: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shrink the shorter side of ``photo`` to ``size`` pixels and keep the central square.

    The photo is halved with a box filter while it is at least twice too large, then resized once with a bicubic
    filter: a single bicubic step from a large photo would be blurred more (Dhariwal and Nichol 2021, guided-diffusion;
    kept by RCDM).

    Args:
        photo: uint8 (H, W, 3).
        size: pixels along each side of the result.

    Returns:
        uint8 (size, size, 3).

    Raises:
        InputError: ``photo`` is more than LONGEST times as long as it is wide.
    """
    image = Image.fromarray(photo)
    if why := too_narrow(*image.size):
        raise InputError(f"A photo cannot be cropped: {why}.")
    image = _halved(image, size)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def halved(photo: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """``photo`` (H, W, 3) as small as it can be with the same centre crops of up to ``size`` pixels."""
    return np.array(_halved(Image.fromarray(photo), size))


def too_narrow(width: int, height: int) -> str:
    """Why a photo of this many pixels has no square crop; empty where it has one."""
    shorter, longer = sorted((width, height))
    if longer <= LONGEST * shorter:
        return ""
    return f"{width} x {height} pixels are too narrow for a square; it may be {LONGEST} times as long as wide"


def _halved(image: Image.Image, size: int) -> Image.Image:
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image

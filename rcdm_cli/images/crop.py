"""The published centre crop, to the pixel: what an encoder and a denoiser see of a photo."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.errors import InputError

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
    shorter, longer = sorted(image.size)
    if longer > LONGEST * shorter:
        raise InputError(
            f"A photo of {image.width} x {image.height} pixels is too narrow for a square crop;"
            f" it may be {LONGEST} times as long as wide."
        )
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))

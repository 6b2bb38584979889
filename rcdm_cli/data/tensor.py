"""The border between uint8 pictures and what networks see."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.core.errors import InputError, RcdmError


def to_tensor(photos: NDArray[np.uint8]) -> Tensor:
    """Photos uint8 (B, H, W, 3) to float32 (B, 3, H, W) on the CPU: 0 becomes -1 and 255 becomes 1.

    Raises:
        InputError: ``photos`` has another type or shape.
    """
    if photos.dtype != np.uint8 or photos.ndim != 4 or photos.shape[3] != 3:
        raise InputError(f"Photos must be uint8 (B, H, W, 3), not {photos.dtype} {photos.shape}.")
    values = torch.from_numpy(photos.transpose(0, 3, 1, 2).astype(np.float32, order="C"))
    return values.div_(127.5).sub_(1)


def to_uint8(pictures: Tensor) -> NDArray[np.uint8]:
    """Pictures (B, 3, H, W) with values in [-1, 1], on any device, to uint8 (B, H, W, 3).

    Values outside [-1, 1] are clamped and fractions cut off, as published: ``((x + 1) * 127.5).clamp(0, 255)``.
    Because of the cut, a photo that went through ``to_tensor`` comes back darker by 1 in some values.

    Raises:
        RcdmError: a value is NaN, which would pass for black.
    """
    levels = (pictures.detach().float() + 1) * 127.5
    if bool(levels.isnan().any()):
        raise RcdmError("Pictures hold NaN: the weights are damaged or the precision is too low for them.")
    array: NDArray[np.uint8] = levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array

"""Conversion between uint8 images and tensors in [-1, 1]."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.core.errors import InputError, RcdmError


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Convert uint8 images (B, H, W, 3) to float32 (B, 3, H, W) on the CPU: 0 becomes -1 and 255 becomes 1.

    Raises:
        InputError: ``images`` is not uint8 (B, H, W, 3).
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"Images must be uint8 (B, H, W, 3), not {images.dtype} {images.shape}.")
    values = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32, order="C"))
    return values.div_(127.5).sub_(1)


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images (B, H, W, 3), on any device, to float32 (B, 3, H, W) in [-1, 1] with channels_last strides.

    The values equal the values of ``to_tensor``. A copy of uint8 images to a device takes a quarter of the time of a
    copy of float32 images.
    """
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Convert images (B, 3, H, W) in [-1, 1], on any device, to uint8 (B, H, W, 3).

    Values are clamped and truncated as in the published code: ``((x + 1) * 127.5).clamp(0, 255)``. Because of the
    truncation, ``to_uint8(to_tensor(images))`` is lower by 1 for some values.

    Raises:
        RcdmError: a value is NaN.
    """
    levels = (images.detach().float() + 1) * 127.5
    if bool(levels.isnan().any()):
        raise RcdmError("Images contain NaN: the weights are damaged or the precision is too low.")
    array: NDArray[np.uint8] = levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array

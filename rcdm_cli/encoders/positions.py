"""Resampling of a ViT's position embeddings to another input size."""

from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["antialias", "plain", "offset"]
"""Bicubic interpolation of a project: ``antialias`` (timm; DINOv2 with registers), ``plain`` (transformers), or
``offset`` (DINO and DINOv2 without registers, with the scale factor ``(grid + 0.1) / old grid``)."""


def resample_positions(positions: Tensor, grid: int, interpolation: Interpolation) -> Tensor:
    """Resample position embeddings (1, P + N², D) of a square grid to float32 (1, P + grid², D), with P prefix tokens.

    Args:
        positions: position embeddings.
        grid: number of patches along each side.
        interpolation: interpolation of the project that defines the encoder.
    """
    old = isqrt(positions.shape[1])
    if old == grid:
        return positions
    prefix = positions.shape[1] - old**2
    patches = positions[:, prefix:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    if interpolation == "offset":
        resampled = F.interpolate(patches, scale_factor=(grid + 0.1) / old, mode="bicubic")
    else:
        resampled = F.interpolate(patches, (grid, grid), mode="bicubic", antialias=interpolation == "antialias")
    flat = resampled.permute(0, 2, 3, 1).reshape(1, grid**2, -1)
    return torch.cat([positions[:, :prefix].float(), flat], dim=1)

"""Maps between images and the space of a denoiser."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rcdm_cli.diffusion.spec import DenoiserSpec, LatentSpace, PatchSpace

Codec = Callable[[Tensor], Tensor]
"""Encoder or decoder: images (B, 3, size, size) in [-1, 1] to x0 (B, C, H, W) of ``DenoiserSpec.input_shape``, or
back."""

MAX_PIXELS = 2**18
"""Maximum number of image pixels in one call of an autoencoder, which has feature maps at the size of the image."""


def codec_batch(size: int) -> int:
    """Return the number of images of ``size`` pixels per call of an autoencoder."""
    return max(1, MAX_PIXELS // size**2)


def encode_x0(spec: DenoiserSpec, images: Tensor, encoder: Codec | None) -> Tensor:
    """Map images (B, 3, size, size) in [-1, 1] to x0 (B, C, H, W).

    Args:
        spec: denoiser.
        images: images.
        encoder: encoder of the autoencoder, for a latent space.
    """
    if isinstance(spec.space, PatchSpace):
        return F.pixel_unshuffle(images, spec.space.factor).contiguous(memory_format=torch.channels_last)
    return _in_parts(encoder, images, spec.size) if isinstance(spec.space, LatentSpace) else images


def decode_x0(spec: DenoiserSpec, x0: Tensor, decoder: Codec | None) -> Tensor:
    """Map x0 (B, C, H, W) to images (B, 3, size, size), about in [-1, 1]. The inverse of ``encode_x0``."""
    if isinstance(spec.space, PatchSpace):
        return F.pixel_shuffle(x0, spec.space.factor)
    return _in_parts(decoder, x0, spec.size) if isinstance(spec.space, LatentSpace) else x0


def _in_parts(codec: Codec | None, values: Tensor, size: int) -> Tensor:
    assert codec is not None, "a latent space has an autoencoder"
    return torch.cat([codec(part) for part in values.split(codec_batch(size))])

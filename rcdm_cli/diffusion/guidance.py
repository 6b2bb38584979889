"""Classifier-free guidance: exaggerate what the condition says."""

import torch
from torch import Tensor

from rcdm_cli.diffusion.samplers import Denoise


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Move eps away from the unconditional one (Ho and Salimans 2022, arXiv:2207.12598, equation 6).

    Args:
        conditional: the denoiser with the representation.
        unconditional: the same denoiser with ``Conditioner.unconditional``.
        scale: 1 leaves the condition as it is and returns ``conditional`` itself; above 1 exaggerates it (scale - 1 is
            the paper's w).

    Returns:
        A denoiser that calls both. Variance channels are the conditional ones.
    """
    if scale == 1:
        return conditional

    def denoise(x: Tensor, t: int) -> Tensor:
        output = conditional(x, t)
        channels = x.shape[1]
        eps = output[:, :channels]
        base = unconditional(x, t)[:, :channels]
        return torch.cat([base + scale * (eps - base), output[:, channels:]], dim=1)

    return denoise

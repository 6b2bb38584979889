"""From noise to images: pure functions of (denoise, noise, schedule, timesteps).

A sampler sees the network as ``denoise(x, t) -> output`` with x (B, 3, H, W), an int timestep t, and output eps
(B, 3, H, W), or eps and the variance channels (B, 6, H, W). Whatever type the output has, sampling stays in the noise's
(float32), and every coefficient is computed in float64 before the loop.

All samplers take

* ``noise`` (B, 3, H, W), standard normal,
* ``schedule``, which the denoiser was trained with, and ``timesteps``, descending, which ``spacing`` chooses,
* ``clip``: hold every prediction of x0 within [-1, 1], as published,
* ``callback(step, timestep, x, x0)``: called once per step, with x before the step and x0 as predicted from it.

They return x0 (B, 3, H, W), within [-1, 1] if clipped, and raise InputError for timesteps that do not descend within
0..T-1. No gradient is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.schedule import Schedule, Spacing

Denoise = Callable[[Tensor, int], Tensor]
DrawNoise = Callable[[int], Tensor]
Callback = Callable[[int, int, Tensor, Tensor], None]


@torch.no_grad()
def ddpm(
    denoise: Denoise,
    noise: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    step_noise: DrawNoise,
    clip: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

    The variance is the learned one (arXiv:2102.09672, equation 15) if the denoiser gives it, else beta. ``step_noise``
    gives the standard normal noise (B, 3, H, W) that follows step 0, 1, ...; nothing follows the last step.
    """
    respaced = schedule.respaced(timesteps[::-1])
    fixed_std = np.sqrt(respaced.betas).tolist()
    x = noise
    for step, timestep, index in _steps(timesteps):
        eps, variance = _split(denoise(x, timestep), x)
        x0 = _x0(respaced, x, index, eps, clip)
        if callback:
            callback(step, timestep, x, x0)
        x = respaced.posterior_mean(x0, x, index)
        if index:
            std = (
                fixed_std[index]
                if variance is None
                else torch.exp(0.5 * respaced.learned_log_variance(variance, index))
            )
            x = x + std * step_noise(step)
    return x


@torch.no_grad()
def ddim(
    denoise: Denoise,
    noise: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    eta: float = 0.0,
    step_noise: DrawNoise | None = None,
    clip: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Denoising diffusion implicit models (Song et al. 2021, arXiv:2010.02502, equation 12).

    ``eta`` goes from 0, deterministic, to 1, as random as ``ddpm``; above 0 it needs ``step_noise``, as ``ddpm`` does.

    Raises:
        InputError: ``eta`` is not within 0..1, or is above 0 without ``step_noise``.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta must be within 0..1; given {eta}.")
    if eta and step_noise is None:
        raise InputError(f"eta {eta} draws noise after each step, and no step_noise was given.")
    respaced = schedule.respaced(timesteps[::-1])
    signal, signal_after = respaced.alphas_cumprod, respaced.alphas_cumprod_prev
    variance = eta**2 * (1 - signal_after) / (1 - signal) * (1 - signal / signal_after)
    std = np.sqrt(variance).tolist()
    x0_weight = np.sqrt(signal_after).tolist()
    eps_weight = np.sqrt(np.maximum(1 - signal_after - variance, 0.0)).tolist()
    x = noise
    for step, timestep, index in _steps(timesteps):
        eps, _ = _split(denoise(x, timestep), x)
        x0 = _x0(respaced, x, index, eps, clip)
        if callback:
            callback(step, timestep, x, x0)
        x = x0_weight[index] * x0 + eps_weight[index] * respaced.predict_eps(x, index, x0)
        if step_noise and std[index]:
            x = x + std[index] * step_noise(step)
    return x


@torch.no_grad()
def dpmpp(
    denoise: Denoise,
    noise: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    clip: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M): second order, multistep, deterministic (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    The first step and the last one, to no noise at all, are of first order.
    """
    respaced = schedule.respaced(timesteps[::-1])
    alpha, sigma = np.sqrt(respaced.alphas_cumprod[::-1]), np.sqrt(1 - respaced.alphas_cumprod[::-1])
    h = np.diff(np.log(alpha / sigma))
    x_weight = [*(sigma[1:] / sigma[:-1]).tolist(), 0.0]
    x0_weight = [*(-alpha[1:] * np.expm1(-h)).tolist(), 1.0]
    # How far x0 is extrapolated along its last change: 1 / (2 r) in the paper.
    ahead = [0.0, *(h[1:] / (2 * h[:-1])).tolist(), 0.0]
    x = before = noise
    for step, timestep, index in _steps(timesteps):
        eps, _ = _split(denoise(x, timestep), x)
        x0 = _x0(respaced, x, index, eps, clip)
        if callback:
            callback(step, timestep, x, x0)
        x = x_weight[step] * x + x0_weight[step] * (x0 + ahead[step] * (x0 - before))
        before = x0
    return x


class Sampler(NamedTuple):
    """A sampler by name.

    Attributes:
        run: the function.
        spacing: how its timesteps are spaced unless a person says otherwise.
        needs_step_noise: whether ``run`` must be given ``step_noise``.
    """

    run: Callable[..., Tensor]
    spacing: Spacing
    needs_step_noise: bool


SAMPLERS = {
    "ddpm": Sampler(ddpm, "linspace", needs_step_noise=True),
    "ddim": Sampler(ddim, "leading", needs_step_noise=False),
    "dpmpp": Sampler(dpmpp, "logsnr", needs_step_noise=False),
}


def _steps(timesteps: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(step, timestep, index in the respaced schedule), in sampling order."""
    for step, timestep in enumerate(timesteps):
        yield step, timestep, len(timesteps) - 1 - step


def _split(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Predicted eps and, if the output has them, the variance channels, both in x's type."""
    eps, *variance = output.to(x.dtype).split(x.shape[1], dim=1)
    return eps, variance[0] if variance else None


def _x0(schedule: Schedule, x: Tensor, index: int, eps: Tensor, clip: bool) -> Tensor:
    x0 = schedule.predict_x0(x, index, eps)
    return x0.clamp(-1, 1) if clip else x0


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

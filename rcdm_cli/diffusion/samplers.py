"""Samplers: pure functions of (denoise, noise, schedule, timesteps).

A denoiser is a function ``denoise(x, t) -> output`` of x (B, C, H, W) and an int timestep t. The output is eps
(B, C, H, W), or eps and the variance channels (B, 2C, H, W). Samples have the dtype of the noise (float32) for any
dtype of the output. Coefficients are computed in float64 before the loop.

All samplers take

* ``noise``: standard normal noise (B, C, H, W),
* ``schedule``: schedule that the denoiser was trained with,
* ``timesteps``: descending timesteps, as returned by ``spacing``,
* ``clip``: whether predictions of x0 are clipped to [-1, 1], as published for pixels.

All samplers return x0 (B, C, H, W) without gradients, and raise InputError for timesteps that do not descend in 0..T-1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.diffusion.schedule import Schedule, Spacing

Denoise = Callable[[Tensor, int], Tensor]
DrawNoise = Callable[[int], Tensor]


@torch.no_grad()
def ddpm(
    denoise: Denoise,
    noise: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    step_noise: DrawNoise,
    clip: bool = True,
) -> Tensor:
    """Sample with ancestral sampling (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

    The variance is the learned variance (arXiv:2102.09672, equation 15) if the denoiser predicts it, else beta.
    ``step_noise(step)`` returns the standard normal noise (B, C, H, W) added after a step. No noise is added after the
    last step.
    """
    respaced = Schedule(schedule.spec, timesteps[::-1])
    fixed_std = np.sqrt(respaced.betas).tolist()
    x = noise
    for step, timestep in enumerate(timesteps):
        index = len(timesteps) - 1 - step
        x0, variance = _predict_x0(denoise(x, timestep), respaced, x, index, clip)
        x = respaced.posterior_mean(x0, x, index)
        if index:
            std = fixed_std[index]
            if variance is not None:
                std = torch.exp(0.5 * respaced.learned_log_variance(variance, index))
            x = x + std * step_noise(step)
    return x


@torch.no_grad()
def ddim(denoise: Denoise, noise: Tensor, schedule: Schedule, timesteps: Sequence[int], *, clip: bool = True) -> Tensor:
    """Sample with denoising diffusion implicit models (Song et al. 2021, arXiv:2010.02502, equation 12).

    The sampler is deterministic: no noise is added after a step.
    """
    respaced = Schedule(schedule.spec, timesteps[::-1])
    x0_weight = np.sqrt(respaced.alphas_cumprod_prev).tolist()
    eps_weight = np.sqrt(1 - respaced.alphas_cumprod_prev).tolist()
    x = noise
    for step, timestep in enumerate(timesteps):
        index = len(timesteps) - 1 - step
        x0, _ = _predict_x0(denoise(x, timestep), respaced, x, index, clip)
        x = x0_weight[index] * x0 + eps_weight[index] * respaced.predict_eps(x, index, x0)
    return x


@torch.no_grad()
def dpmpp(
    denoise: Denoise, noise: Tensor, schedule: Schedule, timesteps: Sequence[int], *, clip: bool = True
) -> Tensor:
    """Sample with DPM-Solver++(2M), a second-order multistep solver (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    The solver is deterministic. The first and the last step are of first order.
    """
    respaced = Schedule(schedule.spec, timesteps[::-1])
    alpha, sigma = respaced.signal[::-1], respaced.noise[::-1]
    h = np.diff(np.log(alpha / sigma))
    x_weight = [*(sigma[1:] / sigma[:-1]).tolist(), 0.0]
    x0_weight = [*(-alpha[1:] * np.expm1(-h)).tolist(), 1.0]
    # Coefficient of the extrapolation of x0: 1 / (2 r) in the paper.
    extrapolation = [0.0, *(h[1:] / (2 * h[:-1])).tolist(), 0.0]
    x = previous_x0 = noise
    for step, timestep in enumerate(timesteps):
        x0, _ = _predict_x0(denoise(x, timestep), respaced, x, len(timesteps) - 1 - step, clip)
        x = x_weight[step] * x + x0_weight[step] * (x0 + extrapolation[step] * (x0 - previous_x0))
        previous_x0 = x0
    return x


class Sampler(NamedTuple):
    """Sampler and its defaults.

    Attributes:
        run: sampler function.
        spacing: default spacing of the timesteps.
        needs_step_noise: whether ``run`` requires ``step_noise``.
    """

    run: Callable[..., Tensor]
    spacing: Spacing
    needs_step_noise: bool


SAMPLERS = {
    "ddpm": Sampler(ddpm, "linspace", needs_step_noise=True),
    "ddim": Sampler(ddim, "leading", needs_step_noise=False),
    "ddim_angle": Sampler(ddim, "angle", needs_step_noise=False),
    "dpmpp": Sampler(dpmpp, "logsnr", needs_step_noise=False),
}


def _predict_x0(output: Tensor, schedule: Schedule, x: Tensor, index: int, clip: bool) -> tuple[Tensor, Tensor | None]:
    """Return x0 and the variance channels or None, with the dtype of ``x``, for the output of the denoiser."""
    eps, *variance = output.to(x.dtype).split(x.shape[1], dim=1)
    x0 = schedule.predict_x0(x, index, eps)
    return x0.clamp(-1, 1) if clip else x0, variance[0] if variance else None


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Apply classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, equation 6).

    Args:
        conditional: denoiser with the conditioning vector.
        unconditional: the same denoiser with the zero conditioning vector.
        scale: guidance scale, 1 + w in the paper; 1 returns ``conditional``.

    Returns:
        Denoiser with guided eps and the variance channels of ``conditional``.
    """
    if scale == 1:
        return conditional

    def denoise(x: Tensor, t: int) -> Tensor:
        output = conditional(x, t)
        channels = x.shape[1]
        eps = output[:, :channels]
        uncond = unconditional(x, t)[:, :channels]
        return torch.cat([uncond + scale * (eps - uncond), output[:, channels:]], dim=1)

    return denoise

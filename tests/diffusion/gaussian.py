"""Denoiser in closed form for images with independent Gaussian pixels.

With x0 ~ N(mean, std^2), x_t ~ N(a mean, v) where v = a^2 std^2 + s^2, for x_t = a x0 + s eps. The optimal
prediction is E[eps | x_t] = s (x_t - a mean) / v. (x_t - a mean) / sqrt(v) is constant along the probability flow ODE
(Song et al. 2021, arXiv:2011.13456, equation 13, solved for this density).
"""

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.diffusion.schedule import Schedule


class GaussianImages:
    def __init__(self, schedule: Schedule, shape: tuple[int, int, int] = (3, 4, 4)) -> None:
        generator = torch.Generator().manual_seed(5)
        self.shape = shape
        self.mean = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
        self.std = 0.05 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64)
        self.signal = np.sqrt(schedule.alphas_cumprod)
        self.noise = np.sqrt(1 - schedule.alphas_cumprod)

    def denoise(self, x: Tensor, t: int) -> Tensor:
        a, s = self.signal[t], self.noise[t]
        return s * (x - a * self.mean) / (a**2 * self.std**2 + s**2)

    def start(self, batch: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(6)
        return torch.randn(batch, *self.shape, generator=generator, dtype=torch.float64)

    def exact(self, x: Tensor, t: int, until: int | None) -> Tensor:
        """Solve the ODE from ``x`` at timestep ``t`` to timestep ``until``, or to zero noise (None)."""
        a, s = self.signal[t], self.noise[t]
        a_until, s_until = (1.0, 0.0) if until is None else (self.signal[until], self.noise[until])
        scale = torch.sqrt((a_until**2 * self.std**2 + s_until**2) / (a**2 * self.std**2 + s**2))
        return a_until * self.mean + scale * (x - a * self.mean)

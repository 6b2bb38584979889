"""Noise schedule and the Gaussians of the diffusion process.

Notation as in Ho et al. 2020 (arXiv:2006.11239): x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps, with a_t the cumulative
product of 1 - beta ("alphas_cumprod").
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise, repeat
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.spec import ScheduleSpec

Values = npt.NDArray[np.float64]


class Schedule:
    """Noise schedule with all timesteps of a spec, or with a subset of them.

    Each quantity is a float64 array with one value per step. The argument ``t`` of the methods is the index of a step:
    an int for the whole batch, or an integer tensor (B,). Without ``use_timesteps``, the index equals the timestep.

    Args:
        spec: schedule that the denoiser was trained with.
        use_timesteps: ascending subset of the timesteps; all by default. The betas of a subset are chosen such that
            ``alphas_cumprod`` does not change (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 19).

    Attributes:
        spec: schedule that the denoiser was trained with.
        betas: variance added in each step.
        alphas_cumprod: cumulative product of 1 - beta.
        alphas_cumprod_prev: ``alphas_cumprod`` of the previous step; 1 before the first step.
        signal: coefficient of x0 in x_t, sqrt(alphas_cumprod).
        noise: coefficient of the noise in x_t, sqrt(1 - alphas_cumprod).
        posterior_variance: variance of x_(t-1) given x_t and x0; 0 at the first step.
        posterior_log_variance: logarithm of ``posterior_variance``, with the value of the second step at the first
            step.
        posterior_mean_coef1: coefficient of x0 in the mean of x_(t-1) given x_t and x0.
        posterior_mean_coef2: coefficient of x_t in the mean of x_(t-1) given x_t and x0.

    Raises:
        InputError: ``use_timesteps`` is empty, not ascending, or not in 0..T-1.
    """

    def __init__(self, spec: ScheduleSpec, use_timesteps: Sequence[int] | None = None) -> None:
        self.spec = spec
        self.betas = _betas(spec)
        if use_timesteps is not None:
            bounded = [-1, *use_timesteps, spec.timesteps]
            if not use_timesteps or any(later <= earlier for earlier, later in pairwise(bounded)):
                raise InputError(
                    f"Timesteps must be distinct, in order and within 0..{spec.timesteps - 1}; given "
                    f"{list(use_timesteps)}."
                )
            cumprod = np.cumprod(1.0 - self.betas)[list(use_timesteps)]
            self.betas = 1.0 - cumprod / np.append(1.0, cumprod[:-1])

        alphas = 1.0 - self.betas
        self.alphas_cumprod = np.cumprod(alphas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.signal, self.noise = np.sqrt(self.alphas_cumprod), np.sqrt(1.0 - self.alphas_cumprod)
        before, after = 1.0 - self.alphas_cumprod_prev, 1.0 - self.alphas_cumprod
        self.posterior_variance = self.betas * before / after
        # A schedule with a single step has no second value. Beta is used, because no noise is added in the first step.
        first = self.posterior_variance[1:2] if len(self) > 1 else self.betas
        self.posterior_log_variance = np.log(np.append(first, self.posterior_variance[1:]))
        self.posterior_mean_coef1 = self.betas * np.sqrt(self.alphas_cumprod_prev) / after
        self.posterior_mean_coef2 = before * np.sqrt(alphas) / after
        self._x0_coef_x_t, self._x0_coef_eps = 1.0 / self.signal, self.noise / self.signal
        self._log_betas = np.log(self.betas)
        self._snr = self.alphas_cumprod / after
        self._tables: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.betas)

    def add_noise(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Return x_t (B, C, H, W): ``x0`` with standard normal ``noise`` (B, C, H, W) at step ``t``."""
        return self._at("signal", t, x0) * x0 + self._at("noise", t, x0) * noise

    def predict_x0(self, x_t: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """Return x0 (B, C, H, W) for ``x_t`` (B, C, H, W) with the noise ``eps`` (B, C, H, W)."""
        return self._at("_x0_coef_x_t", t, x_t) * x_t - self._at("_x0_coef_eps", t, x_t) * eps

    def predict_eps(self, x_t: Tensor, t: Tensor | int, x0: Tensor) -> Tensor:
        """Return the noise (B, C, H, W) of ``x_t`` (B, C, H, W) for ``x0`` (B, C, H, W)."""
        return (x_t - self._at("signal", t, x_t) * x0) / self._at("noise", t, x_t)

    def velocity(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Return the velocity v (B, C, H, W) (Salimans and Ho 2022, arXiv:2202.00512, appendix D)."""
        return self._at("signal", t, x0) * noise - self._at("noise", t, x0) * x0

    def eps_from_velocity(self, x_t: Tensor, t: Tensor | int, velocity: Tensor) -> Tensor:
        """Return the noise (B, C, H, W) of ``x_t`` (B, C, H, W) with velocity ``velocity`` (B, C, H, W)."""
        return self._at("signal", t, x_t) * velocity + self._at("noise", t, x_t) * x_t

    def x0_from_velocity(self, x_t: Tensor, t: Tensor | int, velocity: Tensor) -> Tensor:
        """Return x0 (B, C, H, W) of ``x_t`` (B, C, H, W) with velocity ``velocity`` (B, C, H, W)."""
        return self._at("signal", t, x_t) * x_t - self._at("noise", t, x_t) * velocity

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Return the mean (B, C, H, W) of x_(t-1) given ``x_t`` and ``x0`` (arXiv:2006.11239, equation 7)."""
        return self._at("posterior_mean_coef1", t, x_t) * x0 + self._at("posterior_mean_coef2", t, x_t) * x_t

    def learned_log_variance(self, values: Tensor, t: Tensor | int) -> Tensor:
        """Return the log variance (B, C, H, W) of x_(t-1) for the denoiser's variance channels ``values`` (B, C, H, W).

        -1 is the posterior variance and 1 is beta (arXiv:2102.09672, equation 15).
        """
        fraction = (values + 1.0) / 2.0
        upper, lower = self._at("_log_betas", t, values), self._at("posterior_log_variance", t, values)
        return fraction * upper + (1.0 - fraction) * lower

    def true_log_variance(self, t: Tensor, like: Tensor) -> Tensor:
        """Return ``posterior_log_variance`` at steps ``t`` (B,) as (B, 1, 1, 1), with dtype and device of ``like``."""
        return self._at("posterior_log_variance", t, like)

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio a_t / (1 - a_t) at steps ``t`` (B,), float32 (B,)."""
        return self._table("_snr", torch.float32, t.device)[t]

    def _at(self, name: str, t: Tensor | int, like: Tensor) -> Tensor:
        """Return the attribute ``name`` at ``t`` as a tensor that broadcasts to ``like`` (B, C, H, W)."""
        if isinstance(t, int):
            return torch.as_tensor(getattr(self, name)[t], dtype=like.dtype)
        return self._table(name, like.dtype, like.device)[t].view(-1, 1, 1, 1)

    def _table(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the attribute ``name`` as a tensor. Each table is copied to a device once."""
        key = (name, dtype, device)
        if key not in self._tables:
            with torch.inference_mode(False):
                # MPS has no float64.
                self._tables[key] = torch.as_tensor(getattr(self, name), dtype=dtype).to(device)
        return self._tables[key]


def _betas(spec: ScheduleSpec) -> Values:
    if spec.kind == "linear":
        # Defined for 1000 timesteps, and scaled to the same final noise level for any T.
        return np.linspace(0.1 / spec.timesteps, 20.0 / spec.timesteps, spec.timesteps)
    time = np.arange(spec.timesteps + 1) / spec.timesteps
    cumprod = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: Values = np.minimum(1.0 - cumprod[1:] / cumprod[:-1], 0.999)
    return betas


Spacing = Literal["leading", "linspace", "logsnr", "angle"]


def spacing(kind: Spacing, schedule: Schedule, steps: int) -> tuple[int, ...]:
    """Select ``steps`` timesteps for a sampler, descending.

    Args:
        kind: ``linspace``: evenly spaced from T-1 to 0 (published respacing ``"25"``). ``leading``: every
            (T // steps)-th from 0 (published respacing ``"ddim25"``). ``logsnr``: nearest to evenly spaced log
            signal-to-noise ratios from T-1 to 0 (Lu et al. 2022, arXiv:2206.00927, section 3.4). ``angle``: nearest to
            evenly spaced angles arccos(``signal``) from T-1, without the angle 0 of x0 (Salimans and Ho 2022,
            arXiv:2202.00512, section 4). Every second timestep of ``2 * steps`` is a timestep of ``steps``, as
            progressive distillation needs.
        schedule: schedule with all timesteps.
        steps: number of timesteps to select.

    Raises:
        InputError: ``steps`` is not in 1..T.
    """
    timesteps = len(schedule)
    if not 1 <= steps <= timesteps:
        raise InputError(f"`steps` must be in 1..{timesteps}, the timesteps of the model; given {steps}.")
    if kind == "leading":
        ascending = list(range(0, timesteps, timesteps // steps))[:steps]
    elif kind == "logsnr":
        log_snr = np.log(schedule.alphas_cumprod) - np.log1p(-schedule.alphas_cumprod)
        ascending = _nearest(-log_snr, np.linspace(-log_snr[-1], -log_snr[0], steps)[::-1])
    elif kind == "angle":
        angles = np.arccos(schedule.signal)
        ascending = _nearest(angles, angles[-1] * np.arange(1, steps + 1) / steps)
    elif steps == 1:
        ascending = [timesteps - 1]
    else:
        # Published respacings add the stride repeatedly. A product would round differently at a few ties.
        strides = repeat((timesteps - 1) / (steps - 1), steps - 1)
        ascending = [round(timestep) for timestep in accumulate(strides, initial=0.0)]
    return tuple(reversed(ascending))


def _nearest(values: Values, targets: Values) -> list[int]:
    """Return ascending, distinct timesteps whose ascending ``values`` are nearest to ``targets``."""
    steps = len(targets)
    nearest = np.round(np.interp(targets, values, np.arange(len(values)))).astype(int)
    # A timestep that is already selected is replaced by the next free timestep.
    offsets = np.arange(steps)
    free = np.maximum.accumulate(nearest - offsets)
    ascending: list[int] = (np.minimum(free, len(values) - steps) + offsets).tolist()
    return ascending

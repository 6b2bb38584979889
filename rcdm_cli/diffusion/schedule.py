"""How much noise there is at each timestep, and the Gaussians that follow from it.

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
    """The betas of a spec, or of those of its timesteps that are kept, and what follows from them.

    Every quantity is a float64 array with one value per step, computed once; the methods cast the coefficient that
    they need to the image's type once. Their ``t`` is the index of a step: an int for the whole batch, or an integer
    tensor (B,). Without ``use_timesteps``, the index is the timestep itself.

    Attributes:
        spec: the schedule the denoiser was trained with.
        timestep_map: the timestep of each step, ascending; what the denoiser must be given.
        betas: variance added from one step to the next.
        alphas_cumprod: the part of x_t's variance that comes from x0, for x0 of variance 1.
        alphas_cumprod_prev: that of the step before; 1 before the first.
        signal: weight of x0 in x_t, sqrt(alphas_cumprod).
        noise: weight of the noise in x_t, sqrt(1 - alphas_cumprod).
        posterior_variance: variance of x_(t-1) given x_t and x0; 0 at the first step.
        posterior_log_variance: its logarithm, with the value of the second step at the first, where it would be
            infinite.
        posterior_x0: weight of x0 in the mean of x_(t-1) given x_t and x0.
        posterior_xt: weight of x_t in it.
    """

    def __init__(self, spec: ScheduleSpec, use_timesteps: Sequence[int] | None = None) -> None:
        """Keep the timesteps ``use_timesteps`` (ascending), or all.

        Leaving timesteps out changes the betas such that a kept timestep has the same ``alphas_cumprod`` as before
        (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 19).

        Raises:
            InputError: ``use_timesteps`` is empty, does not ascend, or leaves 0..T-1.
        """
        self.spec = spec
        self.betas = _betas(spec)
        self.timestep_map = tuple(range(spec.timesteps))
        if use_timesteps is not None:
            self.timestep_map = tuple(use_timesteps)
            check_ascending(self.timestep_map, spec.timesteps)
            all_cumprod = np.cumprod(1.0 - self.betas)
            kept_cumprod = all_cumprod[list(use_timesteps)]
            self.betas = 1.0 - kept_cumprod / np.append(1.0, kept_cumprod[:-1])

        alphas = 1.0 - self.betas
        self.alphas_cumprod = np.cumprod(alphas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.signal, self.noise = np.sqrt(self.alphas_cumprod), np.sqrt(1.0 - self.alphas_cumprod)
        before, after = 1.0 - self.alphas_cumprod_prev, 1.0 - self.alphas_cumprod
        self.posterior_variance = self.betas * before / after
        # A schedule of one step has no second value to borrow; beta is then as good, as no noise is added there.
        borrowed = self.posterior_variance[1:2] if len(self) > 1 else self.betas
        self.posterior_log_variance = np.log(np.append(borrowed, self.posterior_variance[1:]))
        self.posterior_x0 = self.betas * np.sqrt(self.alphas_cumprod_prev) / after
        self.posterior_xt = before * np.sqrt(alphas) / after

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.betas)

    def respaced(self, use_timesteps: Sequence[int]) -> "Schedule":
        """The schedule of the timesteps ``use_timesteps`` (ascending, counted in the spec's timesteps)."""
        return Schedule(self.spec, use_timesteps)

    def add_noise(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """x_t: images (B, 3, H, W) with ``noise`` (B, 3, H, W, standard normal) added up to step ``t``."""
        return _at(self.signal, t, x0) * x0 + _at(self.noise, t, x0) * noise

    def predict_x0(self, x_t: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """The x0 (B, 3, H, W) that gives ``x_t`` (B, 3, H, W) when its noise is ``eps`` (B, 3, H, W)."""
        return _at(1.0 / self.signal, t, x_t) * x_t - _at(self.noise / self.signal, t, x_t) * eps

    def predict_eps(self, x_t: Tensor, t: Tensor | int, x0: Tensor) -> Tensor:
        """The noise (B, 3, H, W) that gives ``x_t`` (B, 3, H, W) from ``x0`` (B, 3, H, W)."""
        return (x_t - _at(self.signal, t, x_t) * x0) / _at(self.noise, t, x_t)

    def velocity(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """The v (B, 3, H, W) of images and their noise (Salimans and Ho 2022, arXiv:2202.00512, appendix D)."""
        return _at(self.signal, t, x0) * noise - _at(self.noise, t, x0) * x0

    def eps_of_velocity(self, x_t: Tensor, t: Tensor | int, velocity: Tensor) -> Tensor:
        """The noise (B, 3, H, W) in ``x_t`` (B, 3, H, W) whose v is ``velocity``."""
        return _at(self.signal, t, x_t) * velocity + _at(self.noise, t, x_t) * x_t

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Mean (B, 3, H, W) of x_(t-1) given ``x_t`` and ``x0`` (arXiv:2006.11239, equation 7)."""
        return _at(self.posterior_x0, t, x_t) * x0 + _at(self.posterior_xt, t, x_t) * x_t

    def learned_log_variance(self, values: Tensor, t: Tensor | int) -> Tensor:
        """Log variance (B, 3, H, W) of x_(t-1) from the denoiser's last three channels ``values`` (B, 3, H, W).

        -1 stands for the posterior variance and 1 for beta (arXiv:2102.09672, equation 15).
        """
        share = (values + 1.0) / 2.0
        return share * _at(np.log(self.betas), t, values) + (1.0 - share) * _at(self.posterior_log_variance, t, values)

    def true_log_variance(self, t: Tensor, like: Tensor) -> Tensor:
        """``posterior_log_variance`` at steps ``t`` (B,), as (B, 1, 1, 1) of ``like``'s type and device."""
        return _at(self.posterior_log_variance, t, like)


def respace(timesteps: int, rule: str) -> tuple[int, ...]:
    """Which of ``timesteps`` a published respacing rule keeps, ascending.

    Args:
        timesteps: T.
        rule: ``"25"`` keeps 25 that are as evenly spaced as integers can be, from 0 to T-1; ``"10,15,20"`` divides
            0..T-1 into three equal sections and keeps as many in each; ``"ddim50"`` keeps every k-th from 0, where k
            is the smallest stride that keeps exactly 50.

    Raises:
        InputError: no such rule, or there are not enough timesteps for it.
    """
    if rule.startswith("ddim") and rule[4:].isdecimal():
        for every in range(1, timesteps):
            if len(use_timesteps := range(0, timesteps, every)) == int(rule[4:]):
                return tuple(use_timesteps)
        raise InputError(f"Respacing {rule!r}: no whole stride keeps exactly that many of {timesteps} timesteps.")

    counts = rule.split(",")
    if not all(count.strip().isdecimal() for count in counts):
        raise InputError(f"Respacing {rule!r} is not known: give a count ('25'), counts ('10,15,20') or 'ddim50'.")
    kept_all: list[int] = []
    start = 0
    size, longer = divmod(timesteps, len(counts))
    for section, count in enumerate(counts):
        wanted = int(count)
        length = size + (section < longer)
        if not 1 <= wanted <= length:
            raise InputError(f"Respacing {rule!r}: cannot keep {wanted} of a section of {length} timesteps.")
        stride = (length - 1) / (wanted - 1) if wanted > 1 else 1.0
        # Published respacings add the stride up; multiplying rounds differently at a few ties.
        kept_all += [start + round(offset) for offset in accumulate(repeat(stride, wanted - 1), initial=0.0)]
        start += length
    return tuple(kept_all)


def check_ascending(use_timesteps: Sequence[int], timesteps: int) -> None:
    """Refuse timesteps that are not strictly ascending within 0..T-1, or none at all.

    Raises:
        InputError: names what was given.
    """
    bounded = [-1, *use_timesteps, timesteps]
    if not use_timesteps or any(later <= earlier for earlier, later in pairwise(bounded)):
        raise InputError(
            f"Timesteps must be distinct, in order and within 0..{timesteps - 1}; given {list(use_timesteps)}."
        )


def _betas(spec: ScheduleSpec) -> Values:
    if spec.kind == "linear":
        # Written for 1000 timesteps; scaling keeps the same amount of noise at the end for any T.
        return np.linspace(0.1 / spec.timesteps, 20.0 / spec.timesteps, spec.timesteps)
    time = np.arange(spec.timesteps + 1) / spec.timesteps
    cumprod = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: Values = np.minimum(1.0 - cumprod[1:] / cumprod[:-1], 0.999)
    return betas


def _at(values: Values, t: Tensor | int, like: Tensor) -> Tensor:
    """``values[t]`` as a tensor that multiplies ``like`` (B, C, H, W) image by image."""
    if isinstance(t, int):
        return torch.as_tensor(values[t], dtype=like.dtype)
    table = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return table[t].view(-1, 1, 1, 1)


Spacing = Literal["leading", "trailing", "linspace", "logsnr"]


def spacing(kind: Spacing, schedule: Schedule, steps: int) -> tuple[int, ...]:
    """Choose ``steps`` of the schedule's timesteps, descending, as the samplers take them.

    Args:
        kind: ``linspace``: from T-1 to 0 (the published respacing ``"25"``). ``leading``: every (T // steps)-th from 0,
            so that the first lies up to a stride below T-1 (the published ``"ddim25"``, where steps divide T).
            ``trailing``: every (T / steps)-th down from T-1 (Lin et al. 2024, arXiv:2305.08891, table 2).
            ``logsnr``: nearest to even steps of the logarithm of the signal-to-noise ratio, from T-1 to 0 (Lu et al.
            2022, arXiv:2206.00927, section 3.4).
        schedule: with all of its timesteps.
        steps: how many.

    Raises:
        InputError: ``steps`` is not within 1..T.
    """
    timesteps = len(schedule)
    if not 1 <= steps <= timesteps:
        raise InputError(f"Steps must be within 1..{timesteps}, the model's timesteps; given {steps}.")
    if kind == "leading":
        ascending = list(range(0, timesteps, timesteps // steps))[:steps]
    elif kind == "trailing":
        ascending = [round(step * timesteps / steps) - 1 for step in range(1, steps + 1)]
    elif kind == "linspace":
        ascending = list(respace(timesteps, str(steps))) if steps > 1 else [timesteps - 1]
    else:
        ascending = _even_log_snr(schedule, steps)
    return tuple(reversed(ascending))


def _even_log_snr(schedule: Schedule, steps: int) -> list[int]:
    """Ascending timesteps whose log signal-to-noise ratios are nearest to evenly spaced ones, each timestep once."""
    falling = np.log(schedule.alphas_cumprod) - np.log1p(-schedule.alphas_cumprod)
    wanted = np.linspace(falling[-1], falling[0], steps)[::-1]
    nearest = np.round(np.interp(-wanted, -falling, np.arange(len(schedule)))).astype(int)
    # Where even steps are finer than timesteps, each takes the next free one.
    offsets = np.arange(steps)
    free = np.maximum.accumulate(nearest - offsets)
    ascending: list[int] = (np.minimum(free, len(schedule) - steps) + offsets).tolist()
    return ascending

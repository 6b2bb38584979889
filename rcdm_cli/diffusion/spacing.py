"""Which timesteps a sampler visits."""

from typing import Literal

import numpy as np

from rcdm_cli.diffusion.schedule import Schedule, respace
from rcdm_cli.errors import InputError

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

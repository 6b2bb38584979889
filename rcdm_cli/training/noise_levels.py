"""How often a denoiser is trained at each timestep."""

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.errors import InputError
from rcdm_cli.training.recipe import NoiseLevels


def cumulative_shares(schedule: Schedule, plan: NoiseLevels | None = None) -> Tensor:
    """The share of training that each timestep and those before it get: float64 (T,), ending in exactly 1.

    Args:
        schedule: whose timesteps.
        plan: the distribution of noise levels; None gives every timestep the same share, as published.

    Raises:
        InputError: the schedule has no timestep near the mean of the plan.
    """
    shares = np.ones(len(schedule))
    if plan is not None:
        level = np.log(schedule.noise / schedule.signal)
        if not level[0] < plan.mean < level[-1]:
            raise InputError(
                f"noise_levels.mean must lie within the schedule's levels, {level[0]:.1f} to {level[-1]:.1f}; given "
                f"{plan.mean:g}."
            )
        # A timestep stands for the levels up to half-way to its neighbours.
        shares = np.exp(-0.5 * ((level - plan.mean) / plan.std) ** 2) * np.gradient(level)
    cumulative = np.cumsum(shares)
    return torch.from_numpy(cumulative / cumulative[-1])

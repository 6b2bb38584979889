"""The sampling loop: any number of (cond, seed) pairs, batch by batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.diffusion.guidance import guided
from rcdm_cli.diffusion.noise import StepNoise, picture_noise
from rcdm_cli.diffusion.prediction import denoiser_of
from rcdm_cli.diffusion.samplers import SAMPLERS
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spacing import spacing
from rcdm_cli.diffusion.unet import UNet
from rcdm_cli.images.tensor import to_uint8


@dataclass(frozen=True)
class Settings:
    """How pictures are sampled: sampler by name, number of steps, scale of guidance (1 is none)."""

    sampler: str
    steps: int
    guidance: float


@torch.no_grad()
def sample_pictures(
    denoiser: UNet,
    schedule: Schedule,
    cond: Tensor,
    seeds: Sequence[int],
    settings: Settings,
    device: torch.device,
    batch: int,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.uint8]:
    """One picture for each row of ``cond`` (N, W) and its seed: uint8 (N, size, size, 3).

    A picture depends on its own cond and seed only: the batch changes the speed, not the noise.
    """
    timesteps = spacing(SAMPLERS[settings.sampler].spacing, schedule, settings.steps)
    parts = []
    for start in range(0, len(seeds), batch):
        own = seeds[start : start + batch]
        parts.append(_batch(denoiser, schedule, cond[start : start + batch].to(device), own, settings, timesteps))
        on_progress(start + len(own), len(seeds))
    return np.concatenate(parts)


def _batch(
    denoiser: UNet,
    schedule: Schedule,
    cond: Tensor,
    seeds: Sequence[int],
    settings: Settings,
    timesteps: Sequence[int],
) -> NDArray[np.uint8]:
    shape = (3, denoiser.spec.size, denoiser.spec.size)
    noise = picture_noise(seeds, shape).to(cond.device, memory_format=torch.channels_last)
    denoise = guided(
        denoiser_of(denoiser, schedule, cond),
        denoiser_of(denoiser, schedule, torch.zeros_like(cond)),
        settings.guidance,
    )
    sampler = SAMPLERS[settings.sampler]
    extra = {"step_noise": StepNoise(seeds, shape, cond.device)} if sampler.needs_step_noise else {}
    return to_uint8(sampler.run(denoise, noise, schedule, timesteps, **extra))

"""The sampling loop: any number of (cond, seed) pairs, batch by batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.core.errors import RcdmError
from rcdm_cli.data.tensor import to_uint8
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.noise import StepNoise, initial_noise
from rcdm_cli.diffusion.prediction import predicting
from rcdm_cli.diffusion.samplers import SAMPLERS, Denoise, guided
from rcdm_cli.diffusion.schedule import Schedule, spacing
from rcdm_cli.diffusion.unet import UNet

BYTES = 2**28
"""Of modulations held at a time: ancestral sampling of a large network with all 1000 timesteps would hold gigabytes."""


class Modulations:
    """``UNet.modulations`` of each distinct (timestep, cond): ``Modulations(unet, timesteps, cond)(t)``.

    Args:
        unet: gives the modulations; the rest of it is not used.
        timesteps: in the order in which they will be asked for.
        cond: (B, W). Rows that are equal are computed once.
        limit: bytes to hold at a time; what does not fit is computed when its turn comes.
    """

    def __init__(self, unet: UNet, timesteps: Sequence[int], cond: Tensor, limit: int = BYTES) -> None:
        self._unet = unet
        self._distinct, self._which = cond.unique(dim=0, return_inverse=True)
        together = max(1, limit // (4 * unet.modulation_width * len(self._distinct)))
        self._groups = [timesteps[start : start + together] for start in range(0, len(timesteps), together)]
        self._held: dict[int, Tensor] = {}

    def __call__(self, t: int) -> Tensor:
        """Of timestep ``t`` for each row of cond: (B, M)."""
        if t not in self._held:
            self._held = self._computed(next(group for group in self._groups if t in group))
        return self._held[t][self._which]

    def _computed(self, timesteps: Sequence[int]) -> dict[int, Tensor]:
        count = len(self._distinct)
        t = torch.tensor(timesteps, device=self._distinct.device).repeat_interleave(count)
        modulations = self._unet.modulations(t, self._distinct.repeat(len(timesteps), 1))
        return dict(zip(timesteps, modulations.split(count), strict=True))


@dataclass(frozen=True)
class Settings:
    """How images are sampled: sampler by name, number of steps, scale of guidance (1 is none)."""

    sampler: str
    steps: int
    guidance: float


@dataclass(frozen=True)
class Loop:
    """What is the same for all images.

    Attributes:
        engine: the denoiser.
        unet: the same one; only its ``modulations`` are used.
        schedule: that it was trained with.
        settings: of sampling.
        device: where it runs.
    """

    engine: Engine
    unet: UNet
    schedule: Schedule
    settings: Settings
    device: torch.device

    @torch.no_grad()
    def samples(self, cond: Tensor, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """One image for each row of ``cond`` (B, W) and its seed, in one batch: uint8 (B, size, size, 3)."""
        sampler = SAMPLERS[self.settings.sampler]
        timesteps = spacing(sampler.spacing, self.schedule, self.settings.steps)
        shape = (3, self.unet.spec.size, self.unet.spec.size)
        noise = initial_noise(seeds, shape).to(self.device, memory_format=torch.channels_last)
        cond = cond.to(self.device)
        denoise = guided(
            self._denoise(timesteps, cond), self._denoise(timesteps, torch.zeros_like(cond)), self.settings.guidance
        )
        extra = {"step_noise": StepNoise(seeds, shape, self.device)} if sampler.needs_step_noise else {}
        return to_uint8(sampler.run(denoise, noise, self.schedule, timesteps, **extra))

    def _denoise(self, timesteps: Sequence[int], cond: Tensor) -> Denoise:
        modulations = Modulations(self.unet, timesteps, cond)
        network: Denoise = lambda x, t: self.engine(x, modulations(t))  # noqa: E731
        return predicting(self.unet.spec.prediction, self.schedule, network)


def sample_images(
    loop: Loop,
    cond: Tensor,
    seeds: Sequence[int],
    batch: int,
    on_progress: Callable[[int, int], None],
    on_note: Callable[[str], None],
) -> NDArray[np.uint8]:
    """One image for each row of ``cond`` (N, W) and its seed: uint8 (N, size, size, 3).

    An image depends on its own cond and seed only: the batch changes the speed, not the noise. A batch that does not
    fit into memory is halved, which ``on_note`` is told.

    Raises:
        RcdmError: memory does not suffice for one image.
    """
    batch = min(batch, loop.engine.max_batch or batch)
    parts: list[NDArray[np.uint8]] = []
    done = 0
    while done < len(seeds):
        own = slice(done, done + batch)
        made = _made(loop, cond[own], seeds[own])
        if made is None:
            batch = _halved(min(batch, len(seeds) - done), loop.device)
            on_note(f"Memory does not suffice for that many images at a time: going on with {batch}.")
            continue
        parts.append(made)
        done += len(made)
        on_progress(done, len(seeds))
    return np.concatenate(parts)


def _made(loop: Loop, cond: Tensor, seeds: Sequence[int]) -> NDArray[np.uint8] | None:
    """The images of one batch, or None where memory does not suffice; by then its tensors are gone."""
    try:
        return loop.samples(cond, seeds)
    except (MemoryError, torch.OutOfMemoryError):
        return None
    except RuntimeError as error:
        # That torch has no memory left on the CPU can be told by the text only.
        if "DefaultCPUAllocator" in str(error):
            return None
        raise


def _halved(batch: int, device: torch.device) -> int:
    if batch == 1:
        raise RcdmError(f"The memory of {device} does not suffice for one image.")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return batch // 2

"""Sampling loop: generate samples for any number of (cond, seed) pairs in batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.data.tensor import to_uint8
from rcdm_cli.diffusion.inference import Network
from rcdm_cli.diffusion.noise import initial_noise, step_noise
from rcdm_cli.diffusion.samplers import SAMPLERS, Denoise, guided
from rcdm_cli.diffusion.schedule import Schedule, spacing
from rcdm_cli.diffusion.space import Codec, decode_x0
from rcdm_cli.diffusion.spec import Prediction, Settings
from rcdm_cli.diffusion.unet import UNet

BYTES = 2**28
"""Memory limit of precomputed modulations. The modulations of a large network at 1000 timesteps need gigabytes."""


def denoiser_of(unet: UNet, schedule: Schedule, cond: Tensor) -> Denoise:
    """Return the denoiser of a U-Net and its ``cond`` (B, W), as a function ``(x, t) → eps``."""

    def network(x: Tensor, t: int) -> Tensor:
        output: Tensor = unet(x, torch.full((len(x),), t, device=x.device), cond)
        return output

    return eps_denoiser(unet.spec.prediction, schedule, network)


def eps_denoiser(prediction: Prediction, schedule: Schedule, network: Denoise) -> Denoise:
    """Return a function ``(x, t) → eps`` for a network whose output (B, C or 2C, H, W) is ``prediction``.

    For ``v``, eps is ``sqrt(a) v + sqrt(1 - a) x``. At high noise, a small error of eps is a large error of x0. This
    conversion does not amplify the error of the network.
    """
    if prediction == "eps":
        return network
    return lambda x, t: schedule.eps_from_velocity(x, t, network(x, t).to(x.dtype))


class Modulations:
    """Precomputed ``UNet.modulations``: ``Modulations(unet, timesteps, cond)(t)``.

    Args:
        unet: U-Net that computes the modulations.
        timesteps: timesteps in the order of the calls.
        cond: conditioning vectors (B, W). Equal rows are computed once.
        limit: memory limit in bytes. Modulations beyond the limit are computed later.
    """

    def __init__(self, unet: UNet, timesteps: Sequence[int], cond: Tensor, limit: int = BYTES) -> None:
        self._unet = unet
        self._distinct, self._row = cond.unique(dim=0, return_inverse=True)
        count = max(1, limit // (4 * unet.modulation_width * len(self._distinct)))
        self._groups = [timesteps[start : start + count] for start in range(0, len(timesteps), count)]
        self._computed: dict[int, Tensor] = {}

    def __call__(self, t: int) -> Tensor:
        """Return the modulations (B, M) of timestep ``t``."""
        if t not in self._computed:
            self._computed = self._compute(next(group for group in self._groups if t in group))
        return self._computed[t][self._row]

    def _compute(self, timesteps: Sequence[int]) -> dict[int, Tensor]:
        count = len(self._distinct)
        t = torch.tensor(timesteps, device=self._distinct.device).repeat_interleave(count)
        modulations = self._unet.modulations(t, self._distinct.repeat(len(timesteps), 1))
        return dict(zip(timesteps, modulations.split(count), strict=True))


@dataclass(frozen=True)
class Loop:
    """Sampler with a denoiser and its settings.

    Attributes:
        engine: denoiser.
        unet: the same denoiser in PyTorch; only ``modulations`` is used.
        schedule: schedule that the denoiser was trained with.
        settings: sampling settings.
        device: device of the engine.
        null: unconditional conditioning vector (1, W); None is zeros.
        decoder: decoder of the autoencoder, for a latent space.
        guidance_cond: vector (1, W) added to ``cond``, for a student that receives the guidance scale as an input.
    """

    engine: Network
    unet: UNet
    schedule: Schedule
    settings: Settings
    device: torch.device
    null: Tensor | None = None
    decoder: Codec | None = None
    guidance_cond: Tensor | None = None

    @torch.no_grad()
    def samples(self, cond: Tensor, seeds: Sequence[int]) -> Pixels:
        """Generate one batch of samples for ``cond`` (B, W) and B seeds: uint8 (B, size, size, 3)."""
        sampler = SAMPLERS[self.settings.sampler]
        timesteps = spacing(sampler.spacing, self.schedule, self.settings.steps)
        spec, shape = self.unet.spec, self.unet.spec.input_shape
        noise = initial_noise(seeds, shape).to(self.device, memory_format=torch.channels_last)
        cond = cond.to(self.device)
        if self.guidance_cond is not None:
            cond = cond + self.guidance_cond.to(self.device)
        null = torch.zeros_like(cond) if self.null is None else self.null.to(self.device).expand_as(cond)
        scale = 1.0 if self.guidance_cond is not None else self.settings.guidance
        denoise = guided(self._denoise(timesteps, cond), self._denoise(timesteps, null), scale)
        draw_noise = {"step_noise": lambda step: step_noise(seeds, shape, step).to(self.device)}
        extra = draw_noise if sampler.needs_step_noise else {}
        # Latents have no bounds.
        clip = spec.space.kind != "latents"
        x0 = sampler.run(denoise, noise, self.schedule, timesteps, clip=clip, **extra)
        return to_uint8(decode_x0(spec, x0, self.decoder))

    def _denoise(self, timesteps: Sequence[int], cond: Tensor) -> Denoise:
        modulations = Modulations(self.unet, timesteps, cond)
        network: Denoise = lambda x, t: self.engine(x, modulations(t))  # noqa: E731
        return eps_denoiser(self.unet.spec.prediction, self.schedule, network)


def sample_images(
    loop: Loop,
    cond: Tensor,
    seeds: Sequence[int],
    batch: int,
    on_progress: Callable[[int, int], None],
    on_note: Callable[[str], None],
) -> Pixels:
    """Generate one sample for each conditioning vector and seed.

    Each sample depends only on its conditioning vector and seed. The batch size does not change the noise. If a batch
    does not fit into memory, the batch size is halved and ``on_note`` is called.

    Args:
        loop: sampler.
        cond: conditioning vectors (N, W).
        seeds: N seeds.
        batch: maximum batch size, at least 1.
        on_progress: called with (samples done, samples).
        on_note: called with messages for the user.

    Returns:
        Samples, uint8 (N, size, size, 3).

    Raises:
        InputError: ``cond`` or ``seeds`` are invalid.
        RcdmError: a single sample does not fit into memory.
    """
    width = loop.unet.spec.cond_width
    if cond.ndim != 2 or cond.shape[1] != width or not len(cond):
        raise InputError(f"`cond` must have the shape (N, {width}) with N of at least 1; given {tuple(cond.shape)}.")
    if len(seeds) != len(cond):
        raise InputError(f"`seeds` must contain one seed per conditioning vector, {len(cond)}; given {len(seeds)}.")
    parts: list[Pixels] = []
    done = 0
    while done < len(seeds):
        part = slice(done, done + batch)
        samples = _try_samples(loop, cond[part], seeds[part])
        if samples is None:
            batch = _halved(min(batch, len(seeds) - done), loop.device)
            on_note(f"Not enough memory for this batch size; continuing with {batch}.")
            continue
        parts.append(samples)
        done += len(samples)
        on_progress(done, len(seeds))
    return np.concatenate(parts)


def _try_samples(loop: Loop, cond: Tensor, seeds: Sequence[int]) -> Pixels | None:
    """Return the samples of one batch, or None if memory is insufficient. Tensors are freed before the return."""
    try:
        return loop.samples(cond, seeds)
    except (MemoryError, torch.OutOfMemoryError):
        return None
    except RuntimeError as error:
        # torch has no exception type for insufficient memory on the CPU and on MPS.
        if any(text in str(error) for text in ("DefaultCPUAllocator", "MPS backend out of memory")):
            return None
        raise


def _halved(batch: int, device: torch.device) -> int:
    if batch == 1:
        raise RcdmError(f"The memory of {device} is insufficient for a single sample.")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    return batch // 2

"""Random draws of each step, as pure functions of seed and step. A resumed run draws the same values.

Draws are made for the batch of all processes, so that the draws of an image do not depend on the number of processes.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rcdm_cli.core.seeds import derive_seed
from rcdm_cli.training.recipe import Objective


def generator(purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose state depends only on ``purpose`` and the numbers in ``key``.

    Args:
        purpose: name of the random stream. Streams of different purposes are independent.
        key: seed of the run, and numbers such as the step.
        device: device of the generator. CUDA devices and CPUs draw different numbers.
    """
    return torch.Generator(device).manual_seed(derive_seed(f"training {purpose}", *key))


def batch_indices(step: int, num_images: int, batch: int, seed: int) -> Tensor:
    """Return the image indices (batch,) of one step, int64 in 0..num_images-1.

    Each epoch is a new permutation, cut into ``num_images // batch`` whole batches. Fewer images than ``batch`` are
    repeated.
    """
    epoch, position = divmod(step, max(num_images // batch, 1))
    order = _epoch_order(num_images, epoch, seed)
    if batch > num_images:
        order = order.repeat(-(-batch // num_images))
    return order[position * batch : (position + 1) * batch]


@lru_cache(maxsize=2)
def _epoch_order(num_images: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(num_images, generator=generator("order", seed, epoch))


def draw_timesteps(batch: int, timesteps: int, draw: torch.Generator, objective: Objective | None = None) -> Tensor:
    """Draw timesteps (batch,), int64 in 0..timesteps-1, on the device of the generator.

    Args:
        batch: number of timesteps to draw.
        timesteps: number of timesteps of the noise schedule.
        draw: generator.
        objective: distribution of the timesteps; by default stratified.
    """
    objective = objective or Objective()
    uniform = torch.rand(batch, generator=draw, device=draw.device)
    if objective.timesteps != "uniform":
        strata = torch.arange(batch, device=draw.device)
        order = torch.rand(batch, generator=draw, device=draw.device).argsort()
        uniform = ((strata + uniform) / batch)[order]
    if objective.timesteps == "logit_normal":
        # The inverse of the cumulative distribution function. float64 resolves the tails.
        uniform = uniform.double().clamp(1e-9, 1 - 1e-9) if draw.device.type != "mps" else uniform.clamp(1e-6, 1 - 1e-6)
        uniform = torch.sigmoid(objective.logit_mean + objective.logit_std * torch.special.ndtri(uniform))
    # In float32 the last position can round to 1, which is beyond the last timestep.
    return (uniform * timesteps).long().clamp(max=timesteps - 1)


class Draws(NamedTuple):
    """Random draws of the batch of all processes, on the device of the training.

    Attributes:
        t: timesteps (B,).
        noise: noise (B, 3, H, W), channels_last.
        dropped: whether an image is trained without its representation, (B,).
    """

    t: Tensor
    noise: Tensor
    dropped: Tensor

    def select(self, index: Tensor) -> "Draws":
        """Return the draws of the batch items ``index``."""
        return Draws(self.t[index], self.noise[index], self.dropped[index])


def draw_step(
    seed: int,
    step: int,
    shape: tuple[int, int, int, int],
    timesteps: int,
    uncond_prob: float,
    objective: Objective,
    device: torch.device,
) -> Draws:
    """Draw timesteps, noise and dropped representations of one step.

    Args:
        seed: seed of the run.
        step: number of the step.
        shape: shape (B, C, H, W) of the batch of all processes.
        timesteps: number of timesteps of the noise schedule.
        uncond_prob: probability of dropping a representation.
        objective: distribution of the timesteps.
        device: device of the draws.
    """
    times, noise, dropping = (generator(name, seed, step, device=device) for name in ("timesteps", "noise", "uncond"))
    batch, channels, height, width = shape
    return Draws(
        t=draw_timesteps(batch, timesteps, times, objective),
        noise=torch.randn(batch, height, width, channels, generator=noise, device=device).permute(0, 3, 1, 2),
        dropped=torch.rand(batch, generator=dropping, device=device) < uncond_prob,
    )


class Batches:
    """Batch sampler of steps ``start`` to ``stop - 1`` for a DataLoader: lists of ``(image index, draw index)``.

    The draw index counts the images of the whole run. The draw index is the key of random augmentation. With several
    processes, the batches contain every ``world_size``-th image from ``rank``.
    """

    def __init__(
        self, num_images: int, batch: int, seed: int, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.num_images, self.batch, self.seed = num_images, batch, seed
        self.start, self.stop, self.rank, self.world_size = start, stop, rank, world_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            index = batch_indices(step, self.num_images, self.batch, self.seed).tolist()
            draws = range(self.rank, self.batch, self.world_size)
            yield [(index[k], step * self.batch + k) for k in draws]

"""Images and timesteps of each step, as pure functions of seed and step. A resumed run draws the same values."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from rcdm_cli.core.seeds import derive_seed


def generator(purpose: str, *key: int) -> torch.Generator:
    """Return a CPU generator whose state depends only on ``purpose`` and the numbers in ``key``.

    Args:
        purpose: name of the random stream. Streams of different purposes are independent.
        key: seed of the run, and numbers such as the step.
    """
    return torch.Generator().manual_seed(derive_seed(f"training {purpose}", *key))


def batch_indices(step: int, num_images: int, batch: int, seed: int) -> Tensor:
    """Return the image indices (batch,) of one step, int64 in 0..num_images-1.

    Each epoch is a new permutation, cut into ``num_images // batch`` whole batches. Fewer images than ``batch`` are
    repeated.
    """
    epoch, position = divmod(step, max(num_images // batch, 1))
    order = _epoch_order(num_images, epoch, seed)
    return order.repeat(-(-batch // num_images))[position * batch : (position + 1) * batch]


def stratified_timesteps(batch: int, timesteps: int, draw: torch.Generator) -> Tensor:
    """Draw timesteps (batch,) in 0..timesteps-1: each is uniform, and together they cover the schedule evenly.

    Stratification reduces the variance of the loss (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
    """
    positions = (torch.arange(batch) + torch.rand(batch, generator=draw)) / batch
    # In float32 the last position can round to 1, which is beyond the last timestep.
    return (positions * timesteps).long().clamp(max=timesteps - 1)[torch.randperm(batch, generator=draw)]


@lru_cache(maxsize=2)
def _epoch_order(num_images: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(num_images, generator=generator("order", seed, epoch))


class Batches:
    """Batch sampler of steps ``start`` to ``stop - 1`` for a DataLoader: lists of ``(image index, draw index)``.

    The draw index counts the images of the whole run. The draw index is the key of random augmentation.
    """

    def __init__(self, num_images: int, batch: int, seed: int, start: int, stop: int) -> None:
        self.num_images, self.batch, self.seed = num_images, batch, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            index = batch_indices(step, self.num_images, self.batch, self.seed)
            yield [(int(image), step * self.batch + k) for k, image in enumerate(index)]

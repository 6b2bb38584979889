"""Which images and timesteps a step sees: a pure function of (seed, step), so that a resumed run sees the same."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from numpy.random import SeedSequence
from torch import Tensor


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on every number of ``key`` and on nothing else."""
    # SeedSequence hashes; adding or xoring the numbers would let different keys collide.
    state = SeedSequence(key).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def batch_indices(step: int, images: int, batch: int, seed: int) -> Tensor:
    """The images (batch,) of one step, as int64 indices into 0..images-1.

    An epoch is a fresh permutation cut into ``images // batch`` whole batches; fewer images than a batch
    are repeated to fill one.
    """
    epoch, place = divmod(step, max(images // batch, 1))
    order = _epoch_order(images, epoch, seed)
    return order.repeat(-(-batch // images))[place * batch : (place + 1) * batch]


def stratified_timesteps(batch: int, timesteps: int, draw: torch.Generator) -> Tensor:
    """Timesteps (batch,) in 0..timesteps-1: each is uniform, and together they cover all noise levels evenly.

    So the loss of a batch is less noisy (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
    """
    places = (torch.arange(batch) + torch.rand(batch, generator=draw)) / batch
    # In float32 the last place can round to 1, beyond the last timestep.
    return (places * timesteps).long().clamp(max=timesteps - 1)[torch.randperm(batch, generator=draw)]


@lru_cache(maxsize=2)
def _epoch_order(images: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(images, generator=generator(seed, epoch))


class Batches:
    """The batches of steps ``start`` to ``stop``, for a DataLoader: lists of ``(image, draw)``.

    ``draw`` numbers the draws of the whole run, so that augmentation can depend on it.
    """

    def __init__(self, images: int, batch: int, seed: int, start: int, stop: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            index = batch_indices(step, self.images, self.batch, self.seed)
            yield [(int(image), step * self.batch + k) for k, image in enumerate(index)]

"""Noise as an input: each image has a seed of its own, so its noise does not depend on what it is made with.

Numbers come from numpy's frozen ``RandomState`` stream (its documentation promises the same numbers in every version),
seeded through ``SeedSequence``. torch's CPU generator would not do: it keeps 32 bits of its seed, so that among 10,000
images two share their noise once in a hundred times.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError


def sample_seed(seed: int, image: int, sample: int) -> int:
    """The seed of image number ``image`` of image number ``image``: 64 bits, the same on every platform.

    Args:
        seed: what a person gave, 0 or more.
        image: number of the image, from 0.
        image: number of the image made of that image, from 0.

    Raises:
        InputError: a number is negative.
    """
    if min(seed, image, sample) < 0:
        raise InputError(f"Seeds and numbers of images and images start at 0; given {seed}, {image} and {sample}.")
    sequence = np.random.SeedSequence(seed, spawn_key=(image, sample))
    return int(sequence.generate_state(1, np.uint64)[0])


def initial_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise that sampling starts from.

    Args:
        seeds: one per image, from ``image_seed``.
        shape: of one image, (3, H, W).

    Returns:
        float32 (B, 3, H, W) on the CPU; image k's numbers depend on ``seeds[k]`` alone.
    """
    return torch.stack([_normal(seed, 0, shape) for seed in seeds])


class StepNoise:
    """The noise that stochastic samplers add after each step: ``StepNoise(seeds, shape)(step)``.

    Args:
        seeds: one per image, from ``image_seed``.
        shape: of one image, (3, H, W).
        device: where the sampler runs; numbers are made on the CPU and then moved.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = tuple(seeds)
        self.shape = tuple(shape)
        self.device = device

    def __call__(self, step: int) -> Tensor:
        """float32 (B, 3, H, W) standard normal, a function of the seeds and ``step`` (from 0) alone."""
        return torch.stack([_normal(seed, 1 + step, self.shape) for seed in self.seeds]).to(self.device)


def _normal(seed: int, stream: int, shape: Sequence[int]) -> Tensor:
    bits = np.random.MT19937(np.random.SeedSequence(seed, spawn_key=(stream,)))
    return torch.from_numpy(np.random.RandomState(bits).standard_normal(tuple(shape)).astype(np.float32))

"""Noise with one seed per sample, independent of the batch.

The generator is numpy's ``RandomState``, whose stream is frozen across versions, seeded through ``SeedSequence``. The
CPU generator of torch uses 32 bits of its seed only: among 10,000 samples, two would share their noise with a
probability of 1 %.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.seeds import derive_seed


def sample_seed(seed: int, name: str, sample: int) -> int:
    """Return the 64-bit seed of one sample, which is the same on every platform.

    The seed depends on the name of the image, not on its position. Adding or removing an image does not change the
    samples of other images.

    Args:
        seed: seed of the run, 0 or more.
        name: name of the image: the path relative to the folder or the tar that was given, the file name of an image
            that was given itself, or the index of an array.
        sample: index of the sample among the samples of the image, from 0.

    Raises:
        InputError: a number is negative.
    """
    if min(seed, sample) < 0:
        raise InputError(f"`seed` and the index of a sample must be >= 0; given {seed} and {sample}.")
    return derive_seed("sample", seed, name, sample)


def sample_seeds(seed: int, names: Sequence[str], num_samples: int) -> list[list[int]]:
    """Return the seeds of ``num_samples`` samples for each image, by the names of the images."""
    return [[sample_seed(seed, name, sample) for sample in range(num_samples)] for name in names]


def initial_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return the standard normal noise that sampling starts from.

    Args:
        seeds: one seed per sample, from ``sample_seed``.
        shape: shape of one sample, (3, H, W).

    Returns:
        float32 (B, 3, H, W) on the CPU. Sample k depends on ``seeds[k]`` only.
    """
    return torch.stack([_normal(seed, 0, shape) for seed in seeds])


def step_noise(seeds: Sequence[int], shape: Sequence[int], step: int) -> Tensor:
    """Return the noise that a stochastic sampler adds after ``step`` (from 0); see ``initial_noise``."""
    return torch.stack([_normal(seed, 1 + step, shape) for seed in seeds])


def _normal(seed: int, stream: int, shape: Sequence[int]) -> Tensor:
    bits = np.random.MT19937(np.random.SeedSequence(seed, spawn_key=(stream,)))
    return torch.from_numpy(np.random.RandomState(bits).standard_normal(tuple(shape)).astype(np.float32))

"""95 % confidence intervals: bootstrap over images, Student's t over independent runs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.seeds import derive_seed

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
BLOCK = 1 << 22
"""Number of multiplicities of images in resamples that are in memory at a time: 32 MiB in float64."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Bootstrap resamples of ``count`` images with replacement (Efron 1979).

    All numbers share the same resamples. A difference between two numbers of the same images is therefore paired.
    Resamples of many images are drawn again for each number, in blocks of ``BLOCK`` multiplicities, so that memory does
    not grow with the number of images.

    Args:
        count: number of images, at least 1.
        seed: seed of the resamples.
        num_resamples: number of resamples.
    """

    def __init__(self, count: int, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> None:
        self.count, self.seed, self.num_resamples = count, seed, num_resamples
        self._stored = list(self._draw()) if count * num_resamples <= BLOCK else None

    def blocks(self) -> Iterator[Tensor]:
        """Yield the multiplicity of each image in each resample, in blocks float64 (R, count) of resamples."""
        yield from self._stored if self._stored is not None else self._draw()

    def means(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` (N,) over all images and over each resample: (1 + num_resamples,)."""
        # A resampled sum is one matrix product.
        sums = torch.cat([counts @ values.double() for counts in self.blocks()])
        return torch.cat([values.double().mean()[None], sums / self.count])

    def mean(self, values: Tensor) -> Interval:
        """Return the mean of ``values`` (N,), one value per image, with its interval.

        For a paired difference, pass the difference of two such tensors.
        """
        return percentile_interval(self.means(values))

    def ratio(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Return the ratio of the sums of ``numerator`` (N,) and ``denominator`` (N,): (1 + num_resamples,).

        The first entry is the ratio over all images. A ratio with denominator 0 is 0.
        """
        top, bottom = self.means(numerator), self.means(denominator)
        return torch.where(bottom > 0, top / bottom.clamp(min=1e-300), 0.0)

    def _draw(self) -> Iterator[Tensor]:
        rows = max(1, BLOCK // self.count)
        for start in range(0, self.num_resamples, rows):
            generator = np.random.default_rng(derive_seed("bootstrap", self.seed, start))
            index = generator.integers(0, self.count, (min(rows, self.num_resamples - start), self.count))
            yield torch.from_numpy(np.stack([np.bincount(row, minlength=self.count) for row in index])).double()


def percentile_interval(values: Tensor) -> Interval:
    """Return the percentile interval of (1 + num_resamples,) estimates, the first of which is over all images."""
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(values[1:], torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return Interval(float(values[0]), float(low), float(high))


def t_interval(values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf) -> Interval:
    """Return the mean of n ≥ 2 independent ``values`` ± t · s / √n, with n − 1 degrees of freedom.

    Args:
        values: independent values.
        lowest: smallest possible value; the interval is cut there.
        highest: largest possible value; the interval is cut there.
    """
    from scipy.special import stdtrit

    mean, degrees = fmean(values), len(values) - 1
    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, max(mean - half, lowest), min(mean + half, highest))

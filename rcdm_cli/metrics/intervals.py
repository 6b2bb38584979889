"""95 % confidence intervals: bootstrap over images, Student's t over independent runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Return the estimate and its bounds as JSON-able values."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Bootstrap:
    """Bootstrap resamples of ``count`` images with replacement (Efron 1979).

    All numbers share the same resamples. A difference between two numbers of the same images is therefore paired.

    Args:
        count: number of images, at least 1.
        seed: seed of the resamples.
        num_resamples: number of resamples.
    """

    def __init__(self, count: int, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> None:
        index = np.random.default_rng(seed).integers(0, count, (num_resamples, count))
        # Counts of each image per resample: a resampled sum is one matrix product.
        counts = np.stack([np.bincount(row, minlength=count) for row in index])
        self.counts = torch.from_numpy(counts).double()

    def mean(self, values: Tensor) -> Interval:
        """Return the mean of ``values`` (N,), one value per image, with its interval.

        For a paired difference, pass the difference of two such tensors.
        """
        return _interval(values.double().mean(), self.counts @ values.double() / len(values))

    def ratio(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Return the ratio of the sums of ``numerator`` (N,) and ``denominator`` (N,): (1 + num_resamples,).

        The first entry is the ratio over all images. A ratio with denominator 0 is 0.
        """
        counts = torch.cat([torch.ones(1, len(numerator), dtype=torch.float64), self.counts])
        bottom = counts @ denominator.double()
        return torch.where(bottom > 0, counts @ numerator.double() / bottom.clamp(min=1e-300), 0.0)


def percentile_interval(values: Tensor) -> Interval:
    """Return the percentile interval of (1 + num_resamples,) estimates, the first of which is over all images."""
    return _interval(values[0], values[1:])


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean of n ≥ 2 independent ``values`` ± t · s / √n, with n − 1 degrees of freedom."""
    from scipy.special import stdtrit

    mean, degrees = fmean(values), len(values) - 1
    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def _interval(value: Tensor, resampled: Tensor) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return Interval(float(value), float(low), float(high))

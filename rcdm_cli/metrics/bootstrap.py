"""How sure a mean over images is: percentile intervals of the bootstrap (Efron 1979) over the images asked about."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A number with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """The same as JSON-able values."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Bootstrap:
    """Resamples of ``count`` images with replacement.

    The same resamples serve every number, so that a difference between two numbers of the same images is paired: what
    makes some images easy for both cancels.

    Args:
        count: images, 1 or more.
        seed: of the resamples.
        draws: how many resamples.
    """

    def __init__(self, count: int, seed: int = 0, draws: int = DRAWS) -> None:
        index = np.random.default_rng(seed).integers(0, count, (draws, count))
        # How often each image was drawn: a resampled sum is then one matrix product.
        counts = np.stack([np.bincount(row, minlength=count) for row in index])
        self.counts = torch.from_numpy(counts).double()

    def mean(self, values: Tensor) -> Interval:
        """The mean of ``values`` (N,), one an image; give a difference of two such for a paired difference."""
        return _interval(values.double().mean(), self.counts @ values.double() / len(values))

    def ratio(self, above: Tensor, below: Tensor) -> Tensor:
        """Sum of ``above`` (N,) over sum of ``below`` (N,): (1 + draws,), the images as they are first.

        Where a sum below is 0, so is the ratio.
        """
        counts = torch.cat([torch.ones(1, len(above), dtype=torch.float64), self.counts])
        bottom = counts @ below.double()
        return torch.where(bottom > 0, counts @ above.double() / bottom.clamp(min=1e-300), 0.0)


def of_draws(values: Tensor) -> Interval:
    """The interval of a number (1 + draws,) whose first entry is that of the images as they are."""
    return _interval(values[0], values[1:])


def _interval(value: Tensor, drawn: Tensor) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(drawn, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return Interval(float(value), float(low), float(high))

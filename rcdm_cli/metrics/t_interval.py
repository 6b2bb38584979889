"""How sure a mean over seeds is: the interval of Student's t."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from rcdm_cli.metrics.bootstrap import LEVEL, Interval


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean of independent ``values``, two or more, ± t · s / √n with n − 1 degrees of freedom."""
    mean = fmean(values)
    half = quantile((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def quantile(probability: float, degrees: int) -> float:
    """The ``t`` that a t-distributed number with ``degrees`` of freedom stays below with ``probability``, from 0.5."""
    low, high = 0.0, 1.0
    while _within(high, degrees) < 2 * probability - 1:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 2 * probability - 1 else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """Probability of a number in [-t, t] (Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(degrees))
    odd = degrees % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    partial = math.sin(angle) * total
    return 2 / math.pi * (angle + partial) if odd else partial

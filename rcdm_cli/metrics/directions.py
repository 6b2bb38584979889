"""Correlation between ``h`` and the representations of its samples along the principal directions of ``h``."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Directions:
    """Principal directions of ``h``, strongest first, in bands of 1, 1, 2, 4, ... directions.

    Attributes:
        last: number of the last direction of each band, counted from 1.
        variance: fraction of the variance of ``h`` in each band.
        correlation: mean correlation between ``h`` and the samples' representations over the directions of each band:
            0 if samples do not depend on ``h``, 1 if samples reproduce ``h``.
    """

    last: tuple[int, ...]
    variance: tuple[float, ...]
    correlation: tuple[float, ...]


def directions(sample_h: Tensor, h: Tensor) -> Directions:
    """Correlate the samples' representations with ``h`` along each principal direction of ``h``.

    Args:
        sample_h: (N, K, D), representations of K samples per image.
        h: (N, D), representations that the samples are conditioned on, N ≥ 2.
    """
    centred = (h - h.mean(dim=0)).double()
    _, deviation, axes = torch.linalg.svd(centred, full_matrices=False)
    # N images span at most N - 1 directions. Further directions contain rounding errors only.
    count = max(1, int((deviation[: len(h) - 1] > 1e-6 * deviation[0]).sum()))
    variance = deviation[:count].square() / deviation[:count].square().sum().clamp(min=1e-300)
    wanted = (centred @ axes[:count].T)[:, None].expand(-1, sample_h.shape[1], -1).flatten(0, 1)
    samples = sample_h.double().flatten(0, 1)
    reached = (samples - samples.mean(dim=0)) @ axes[:count].T
    product = wanted.norm(dim=0) * reached.norm(dim=0)
    correlation = torch.where(product > 0, (wanted * reached).sum(dim=0) / product.clamp(min=1e-300), 0.0)
    ends = [*(2**k for k in range(count.bit_length()) if 2**k < count), count]
    bands = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return Directions(
        tuple(ends),
        tuple(float(variance[band].sum()) for band in bands),
        tuple(float(correlation[band].mean()) for band in bands),
    )

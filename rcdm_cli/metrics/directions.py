"""Along which directions of ``h`` samples follow it: the strong ones are learned first."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Directions:
    """Principal directions of ``h`` in bands, strongest first, each band as many as all before it together.

    Attributes:
        last: number of the last direction of each band, from 1.
        variance: share of the variance of ``h`` over the images that each band holds.
        correlation: mean over a band's directions of the correlation between ``h`` and the representations of its
            samples; 0 where samples have nothing to do with ``h``, 1 where they follow it.
    """

    last: tuple[int, ...]
    variance: tuple[float, ...]
    correlation: tuple[float, ...]

    def as_json(self) -> dict[str, list[float]]:
        """The same as JSON-able values."""
        return {"last": list(self.last), "variance": list(self.variance), "correlation": list(self.correlation)}


def directions(found: Tensor, h: Tensor) -> Directions:
    """How far samples follow ``h`` along each of its principal directions.

    Args:
        found: (N, K, D), the representations of K samples of each image.
        h: (N, D), the representations that they were sampled for; N at least 2.
    """
    centred = (h - h.mean(dim=0)).double()
    _, deviation, axes = torch.linalg.svd(centred, full_matrices=False)
    # N images span N - 1 directions at most; along what is left of others there is rounding only.
    count = max(1, int((deviation[: len(h) - 1] > 1e-6 * deviation[0]).sum()))
    variance = deviation[:count].square() / deviation[:count].square().sum().clamp(min=1e-300)
    asked = (centred @ axes[:count].T)[:, None].expand(-1, found.shape[1], -1).flatten(0, 1)
    samples = found.double().flatten(0, 1)
    given = (samples - samples.mean(dim=0)) @ axes[:count].T
    product = asked.norm(dim=0) * given.norm(dim=0)
    correlation = torch.where(product > 0, (asked * given).sum(dim=0) / product.clamp(min=1e-300), 0.0)
    ends = [*(2**k for k in range(count.bit_length()) if 2**k < count), count]
    bands = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return Directions(
        tuple(ends),
        tuple(float(variance[band].sum()) for band in bands),
        tuple(float(correlation[band].mean()) for band in bands),
    )

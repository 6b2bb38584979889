"""How much the samples of one representation differ: what it has thrown away, as numbers."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.bootstrap import Bootstrap, Interval


@dataclass(frozen=True)
class Diversity:
    """Of samples at fixed ``h``; one value an image.

    Attributes:
        pixels: (N,) root of the pixels' unbiased variance over the samples, as a share of the pixel range.
        space: (N,) mean of 1 - cosine similarity over pairs of samples, in the named encoder's space.
        between: the same over samples of different images: what ``space`` would be if ``h`` told nothing.
    """

    pixels: Tensor
    space: Tensor
    between: float

    def as_json(self, bootstrap: Bootstrap) -> dict[str, object]:
        """Means over images with their intervals."""
        return {
            "pixels": bootstrap.mean(self.pixels).as_json(),
            "space": bootstrap.mean(self.space).as_json(),
            "between": self.between,
        }


@dataclass(frozen=True)
class MoreDiverse:
    """Projector less backbone of one method, paired by image and noise; above 0, the projector's samples vary more."""

    method: str
    pixels: Interval
    space: Interval

    def as_json(self) -> dict[str, object]:
        """The same as JSON-able values."""
        return {"method": self.method, "pixels": self.pixels.as_json(), "space": self.space.as_json()}


def diversity(samples: NDArray[np.uint8], features: Tensor) -> Diversity:
    """Measure samples of N images, K of each.

    Args:
        images: uint8 (N, K, H, W, 3), K at least 2.
        features: (N, K, D), the images' representations in one encoder's space.
    """
    count, num_samples = samples.shape[:2]
    variance = [(own.astype(np.float64) / 255).var(axis=0, ddof=1).mean() for own in samples]
    unit = F.normalize(features.double(), dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    own = (similarity.sum(dim=(1, 2)) - num_samples) / (num_samples * (num_samples - 1))
    # |Σ u|² counts every pair of all unit vectors: less those of one image, the rest are pairs of different images.
    everything = float(unit.sum(dim=(0, 1)).square().sum())
    others = (everything - float(similarity.sum())) / (count * (count - 1) * num_samples**2) if count > 1 else 1.0
    return Diversity(torch.tensor(variance).sqrt(), 1 - own, 1 - others)

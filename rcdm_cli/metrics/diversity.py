"""Diversity of the samples of one representation: what the representation does not encode."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.intervals import Bootstrap, Interval


@dataclass(frozen=True)
class Diversity:
    """Diversity of samples at fixed ``h``, one value per image.

    Attributes:
        pixels: (N,) root of the pixels' unbiased variance over the samples, as a share of the pixel range.
        space: (N,) mean of 1 - cosine similarity over pairs of samples, in an encoder's space.
        between: mean of 1 - cosine similarity over pairs of samples of different images: the value of ``space`` for a
            representation without information.
    """

    pixels: Tensor
    space: Tensor
    between: float

    def as_json(self, bootstrap: Bootstrap) -> dict[str, object]:
        """Return means over images with their intervals as JSON-able values."""
        return {
            "pixels": bootstrap.mean(self.pixels).as_json(),
            "space": bootstrap.mean(self.space).as_json(),
            "between": self.between,
        }


@dataclass(frozen=True)
class DiversityDifference:
    """Diversity at the projector minus diversity at the backbone of one method, paired by image and noise."""

    method: str
    pixels: Interval
    space: Interval

    def as_json(self) -> dict[str, object]:
        """Return both differences as JSON-able values."""
        return {"method": self.method, "pixels": self.pixels.as_json(), "space": self.space.as_json()}


def diversity(samples: NDArray[np.uint8], features: Tensor) -> Diversity:
    """Measure the diversity of K samples for each of N images.

    Args:
        samples: uint8 (N, K, H, W, 3), K ≥ 2.
        features: (N, K, D), representations of the samples in one encoder's space.
    """
    count, num_samples = samples.shape[:2]
    variance = [(own.astype(np.float64) / 255).var(axis=0, ddof=1).mean() for own in samples]
    unit = F.normalize(features.double(), dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    own = (similarity.sum(dim=(1, 2)) - num_samples) / (num_samples * (num_samples - 1))
    # |Σ u|² sums over all pairs of unit vectors. Without the pairs of the same image, pairs of different images remain.
    all_pairs = float(unit.sum(dim=(0, 1)).square().sum())
    others = (all_pairs - float(similarity.sum())) / (count * (count - 1) * num_samples**2) if count > 1 else 1.0
    return Diversity(torch.tensor(variance).sqrt(), 1 - own, 1 - others)

"""Diversity of the samples of one representation, from properties that the representation does not encode."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.intervals import Bootstrap, Interval, percentile_interval


@dataclass(frozen=True)
class Diversity:
    """Diversity of samples at fixed ``h``, one value per image.

    Attributes:
        variance: (N,) unbiased variance of a pixel over the samples, mean over the pixels; the pixel range is 1.
        space: (N,) mean of 1 - cosine similarity over pairs of samples, in an encoder's space.
        between: mean of 1 - cosine similarity over pairs of samples of different images: the value of ``space`` for a
            representation without information.
    """

    variance: Tensor
    space: Tensor
    between: float

    def as_json(self, bootstrap: Bootstrap) -> dict[str, object]:
        """Return the spread and the diversity in the encoder's space, with intervals, as JSON-able values."""
        return {
            "pixels": asdict(percentile_interval(self.spread(bootstrap))),
            "space": asdict(bootstrap.mean(self.space)),
            "between": self.between,
        }

    def spread(self, bootstrap: Bootstrap) -> Tensor:
        """Return the spread of the samples over all images and over each resample of images: (1 + R,).

        The spread is the root of the mean variance over images. An unbiased variance has the same expectation for any
        number of samples. A mean of standard deviations would be too small for few samples.
        """
        return bootstrap.means(self.variance).sqrt()


@dataclass(frozen=True)
class DiversityDifference:
    """Diversity at the projector minus diversity at the backbone of one method, paired by image and noise."""

    method: str
    pixels: Interval
    space: Interval


def pixel_variance(samples: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the unbiased variance of each pixel over samples uint8 (K, H, W, 3), K ≥ 2, as a mean over RGB.

    Returns:
        float64 (H, W), where the pixel range is 1. The mean over samples and pixels of unbiased variances does not
        depend on K.
    """
    variance: NDArray[np.float64] = (samples.astype(np.float64) / 255).var(axis=0, ddof=1).mean(axis=-1)
    return variance


def diversity(samples: NDArray[np.uint8], features: Tensor) -> Diversity:
    """Measure the diversity of K samples for each of N images.

    Args:
        samples: uint8 (N, K, H, W, 3), K ≥ 2.
        features: (N, K, D), representations of the samples in one encoder's space.
    """
    count, num_samples = samples.shape[:2]
    variance = [float(pixel_variance(own).mean()) for own in samples]
    unit = F.normalize(features.double(), dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    own = (similarity.sum(dim=(1, 2)) - num_samples) / (num_samples * (num_samples - 1))
    # |Σ u|² sums over all pairs of unit vectors. Without the pairs of the same image, pairs of different images remain.
    all_pairs = float(unit.sum(dim=(0, 1)).square().sum())
    others = (all_pairs - float(similarity.sum())) / (count * (count - 1) * num_samples**2) if count > 1 else 1.0
    return Diversity(torch.tensor(variance, dtype=torch.float64), 1 - own, 1 - others)

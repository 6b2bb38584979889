"""Distance of a representation from the representations of the training images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.backends.graph import BundleFile, verified_path
from rcdm_cli.bundle.manifest import Manifest, listed_files, unused_name
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_tensors, sha256, write_tensors
from rcdm_cli.encoders.pairs import Pair

STATISTICS = "statistics.safetensors"

DIRECTIONS = 64
"""Principal directions with a variance of their own. The other directions share one variance."""

FAR = 0.99
"""Fraction of the training images whose distance is below the limit of a far image."""

FOLDS = 5
"""Parts of the training images. The distance of each part is measured under the Gaussian of the other parts."""


@dataclass(frozen=True)
class TrainingStatistics:
    """Gaussian of the representations of training images, and quantiles of the Mahalanobis distance.

    Each representation is divided by the square root of its length. Lengths vary much between training images and
    would hide other directions. Representations of length 1 separate other images better (Müller and Hein 2025,
    arXiv:2505.18032), but do not separate images without content, such as a black image. The covariance is that of
    probabilistic principal components (Tipping and Bishop 1999).

    Attributes:
        mean: (D,).
        directions: orthonormal principal directions (R, D).
        variance: variance along each direction, and the mean variance of the other directions (R + 1,).
        quantiles: quantiles of the squared distance of the training images, at Q fractions from 0 to 1.
    """

    mean: Tensor
    directions: Tensor
    variance: Tensor
    quantiles: Tensor

    @classmethod
    def fit(cls, h: Tensor) -> "TrainingStatistics":
        """Compute the statistics of representations (N, D), N at least 2."""
        fold = torch.arange(len(h)) % min(FOLDS, len(h))
        distances = torch.cat(
            [cls(*_gaussian(h[fold != k]), torch.empty(0)).squared_distance(h[fold == k]) for k in fold.unique()]
        )
        fractions = torch.linspace(0, 1, 1001, dtype=torch.float64)
        return cls(*_gaussian(h), torch.quantile(distances, fractions).float())

    def squared_distance(self, h: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance of representations (N, D): float64 (N,)."""
        centred = _scaled(h) - self.mean.double()
        along = (centred @ self.directions.double().T).square()
        rest = (centred.square().sum(dim=1) - along.sum(dim=1)).clamp(min=0)
        return (along / self.variance[:-1].double()).sum(dim=1) + rest / self.variance[-1].double()

    def fraction_nearer(self, squared_distance: Tensor) -> Tensor:
        """Return the fraction of training images that are nearer than each squared distance (N,)."""
        rank = torch.searchsorted(self.quantiles.double(), squared_distance.double())
        return (rank / (len(self.quantiles) - 1)).clamp(max=1)


def _scaled(h: Tensor) -> Tensor:
    """Divide each representation by the square root of its length, in float64."""
    h = h.double()
    length: Tensor = torch.linalg.vector_norm(h, dim=1, keepdim=True)
    return F.normalize(h, dim=1) * length.sqrt()


def _gaussian(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``mean``, ``directions`` and ``variance`` of representations (N, D)."""
    h = _scaled(h)
    values, vectors = torch.linalg.eigh(torch.cov(h.T, correction=0))
    rank = min(DIRECTIONS, h.shape[1] - 1, max(1, len(h) - 1))
    values, directions = values.flip(0).clamp(min=0), vectors.flip(1)[:, :rank].T.contiguous()
    # Equal images, or dimensions that are always 0, have no variance.
    floor = values[0].clamp(min=1e-12) * 1e-6
    variance = torch.cat([values[:rank], values[rank:].mean()[None]]).clamp(min=floor)
    return h.mean(dim=0).float(), directions.float(), variance.float()


def write_statistics(folder: Path, h: Mapping[Pair, Tensor]) -> BundleFile:
    """Write the statistics of training images beside a bundle's files, and return the entry for the manifest.

    Args:
        folder: folder of the bundle.
        h: representations (N, D) of the training images.
    """
    path = folder / unused_name(STATISTICS, listed_files(folder))
    tensors = {
        f"{pair.method}/{pair.level}/{name}": value
        for pair, values in h.items()
        for name, value in vars(TrainingStatistics.fit(values)).items()
    }
    write_tensors(path, tensors, {"kind": "statistics"})
    return BundleFile(file=path.name, sha256=sha256(path))


def read_statistics(folder: Path, manifest: Manifest) -> dict[Pair, TrainingStatistics]:
    """Read the statistics of a bundle, by (method, level); an empty dictionary if the bundle has none.

    Raises:
        InputError: the file is missing, differs from the manifest, or is incomplete.
    """
    if manifest.statistics is None:
        return {}
    path = verified_path(folder, manifest.statistics)
    tensors = read_tensors(path)
    by_pair = {}
    for projection in manifest.conditioning.projections:
        prefix = f"{projection.method}/{projection.level}/"
        stored = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        try:
            statistics = TrainingStatistics(**stored)
        except TypeError as error:
            raise InputError(f"{path} has no complete statistics of {prefix.rstrip('/')}.") from error
        rank, quantiles = len(stored["directions"]) if stored["directions"].ndim else 0, stored["quantiles"].numel()
        shapes = {
            "mean": (projection.width,),
            "directions": (rank, projection.width),
            "variance": (rank + 1,),
            "quantiles": (max(quantiles, 2),),
        }
        for name, shape in shapes.items():
            if stored[name].shape != shape or not stored[name].isfinite().all():
                raise InputError(f"{path}: {prefix}{name} must be finite numbers of the shape {shape}.")
        by_pair[Pair(projection.method, projection.level)] = statistics
    return by_pair

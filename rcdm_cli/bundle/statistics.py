"""Distance of a representation from the representations of the training images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class TrainingStatistics:
    """Gaussian of the representations of training images, and quantiles of the distance.

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
        h = h.double()
        mean = h.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov(h.T))
        rank = min(DIRECTIONS, h.shape[1] - 1, len(h) - 1)
        values, directions = values.flip(0).clamp(min=0), vectors.flip(1)[:, :rank].T.contiguous()
        # Equal images, or dimensions that are always 0, have no variance.
        floor = values[0].clamp(min=1e-12) * 1e-6
        variance = torch.cat([values[:rank], values[rank:].mean()[None]]).clamp(min=floor)
        fractions = torch.linspace(0, 1, 1001, dtype=torch.float64)
        fitted = cls(mean.float(), directions.float(), variance.float(), torch.empty(0))
        return replace(fitted, quantiles=fitted.squared_distance(h).quantile(fractions).float())

    def squared_distance(self, h: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance of representations (N, D): (N,).

        The covariance is that of probabilistic principal components (Tipping and Bishop 1999).
        """
        centred = h.double() - self.mean.double()
        along = (centred @ self.directions.double().T).square()
        rest = (centred.square().sum(dim=1) - along.sum(dim=1)).clamp(min=0)
        return (along / self.variance[:-1].double()).sum(dim=1) + rest / self.variance[-1].double()

    def fraction_nearer(self, squared_distance: Tensor) -> Tensor:
        """Return the fraction of training images that are nearer than each squared distance (N,)."""
        rank = torch.searchsorted(self.quantiles.double(), squared_distance.double())
        return (rank / (len(self.quantiles) - 1)).clamp(max=1)


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
        if statistics.directions.shape[1:] != (projection.width,):
            raise InputError(f"{path} has statistics of another width than {prefix.rstrip('/')}.")
        by_pair[Pair(projection.method, projection.level)] = statistics
    return by_pair

"""Distances between two sets of feature vectors: Fréchet, MMD, KID, precision and recall."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 3
"""Default k of precision and recall."""

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
"""Number and size of the subsets of the KID."""


@dataclass(frozen=True)
class Distances:
    """Distances of samples to images in one feature space.

    Attributes:
        frechet: squared Fréchet distance; the FID if the features come from the Inception network.
        mmd: squared maximum mean discrepancy over all vectors. ``kid`` is the mean over random subsets.
        precision: fraction of samples inside the manifold of the images.
        recall: fraction of images inside the manifold of the samples.
        neighbours: k of precision and recall.
    """

    frechet: float
    mmd: float
    precision: float
    recall: float
    neighbours: int


def distances(samples: Tensor, images: Tensor) -> Distances:
    """Compute all distances of ``samples`` (N, D) to ``images`` (M, D), with N, M ≥ 2.

    The number of neighbours is lower than ``NEIGHBOURS`` for sets of fewer than 4 vectors.
    """
    neighbours = min(NEIGHBOURS, len(samples) - 1, len(images) - 1)
    return Distances(
        frechet_distance(samples, images),
        mmd(samples, images),
        *precision_recall(samples, images, neighbours=neighbours),
        neighbours,
    )


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Compute the squared Fréchet distance between Gaussians fitted to two sets (Heusel et al. 2017, arXiv:1706.08500).

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)``, equation 6. The estimate is biased upwards for small sets. Compare only
    values from sets of equal sizes.

    Args:
        first: (N, D), N ≥ 2.
        second: (M, D), M ≥ 2.
    """
    means = [vectors.double().mean(dim=0) for vectors in (first, second)]
    # C = R^T R, where R is the triangular QR factor of the centred vectors. The eigenvalues of C1 C2 are the squared
    # singular values of R1 R2^T, so no square root of an ill-conditioned matrix is needed.
    factors = [
        torch.linalg.qr((vectors.double() - mean) / (len(vectors) - 1) ** 0.5, mode="r").R
        for vectors, mean in zip((first, second), means, strict=True)
    ]
    traces = sum(float(factor.square().sum()) for factor in factors)
    shared = float(torch.linalg.svdvals(factors[0] @ factors[1].T).sum())
    return float((means[0] - means[1]).square().sum()) + traces - 2 * shared


def mmd(first: Tensor, second: Tensor, *, chunk: int = 4096) -> float:
    """Compute the unbiased squared maximum mean discrepancy under the kernel ``(x·y / D + 1)³``.

    Bińkowski et al. 2018 (arXiv:1801.01401), section 4. The expectation does not depend on the sizes of the sets.
    Values near 0 can be negative.

    Args:
        first: (N, D), N ≥ 2.
        second: (M, D), M ≥ 2.
        chunk: vectors compared per step; memory is bounded by chunk × max(N, M).
    """
    x, y = first.double(), second.double()
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x, chunk) - float(_kernel(x.square().sum(dim=1), x.shape[1]).sum())) / (n * (n - 1))
    within_y = (_kernel_sum(y, y, chunk) - float(_kernel(y.square().sum(dim=1), y.shape[1]).sum())) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y, chunk) / (n * m)


class KernelInceptionDistance(NamedTuple):
    """KID with the number and the size of its subsets."""

    mean: float
    subsets: int
    subset_size: int


def kid(samples: Tensor, images: Tensor, *, subsets: int = KID_SUBSETS) -> KernelInceptionDistance:
    """Compute the kernel inception distance: the mean of ``mmd`` over random subsets of both sets.

    Bińkowski et al. 2018 (arXiv:1801.01401), section 4. The subsets equal the subsets of torch-fidelity with its
    default seed.

    Args:
        samples: (N, 2048), Inception features, N ≥ 2.
        images: (M, 2048), Inception features, M ≥ 2.
        subsets: number of subsets. Subsets have ``KID_SUBSET_SIZE`` vectors, or min(N, M) if there are fewer.
    """
    size = min(KID_SUBSET_SIZE, len(samples), len(images))
    if size == len(samples) == len(images):
        subsets = 1  # all subsets are equal
    draw = np.random.RandomState(2020)
    values = []
    for _ in range(subsets):
        chosen = [torch.from_numpy(draw.choice(len(each), size, replace=False)) for each in (samples, images)]
        values.append(mmd(samples[chosen[0]], images[chosen[1]]))
    return KernelInceptionDistance(sum(values) / subsets, subsets, size)


def _kernel(product: Tensor, width: int) -> Tensor:
    return (product / width + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor, chunk: int) -> float:
    return sum(float(_kernel(torch.mm(part, y.T), x.shape[1]).sum()) for part in x.split(chunk))


def precision_recall(
    samples: Tensor, images: Tensor, *, neighbours: int = NEIGHBOURS, chunk: int = 1024
) -> tuple[float, float]:
    """Compute improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 and 2).

    The manifold of a set is the union of balls around its vectors. The radius of a ball is the Euclidean distance to
    the vector's k-th nearest neighbour in the set.

    Args:
        samples: (N, D).
        images: (M, D).
        neighbours: k, less than N and M.
        chunk: vectors compared per step; memory is bounded by chunk × max(N, M).

    Returns:
        Precision: fraction of samples inside the manifold of the images.
        Recall: fraction of images inside the manifold of the samples.
    """
    return _share_inside(samples, images, neighbours, chunk), _share_inside(images, samples, neighbours, chunk)


def _share_inside(queries: Tensor, vectors: Tensor, neighbours: int, chunk: int) -> float:
    # The nearest vector is the vector itself, at distance 0.
    radii = torch.cat(
        [_euclidean(part, vectors).kthvalue(neighbours + 1, dim=1).values for part in vectors.split(chunk)]
    )
    inside = [(_euclidean(part, vectors) <= radii).any(dim=1) for part in queries.split(chunk)]
    return float(torch.cat(inside).double().mean())


def _euclidean(first: Tensor, second: Tensor) -> Tensor:
    # A matrix product would give a non-zero distance of a vector to itself.
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")

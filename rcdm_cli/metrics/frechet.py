"""How far two sets of representations lie apart as distributions."""

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of vectors (Heusel et al. 2017, arXiv:1706.08500).

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)``, equation 6. Small sets make it larger: compare only values from sets of
    the same sizes.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.
    """
    means = [vectors.double().mean(dim=0) for vectors in (first, second)]
    # C = R^T R with R the triangular factor of what is left of the vectors without their mean; so the eigenvalues of
    # C1 C2 are the squared singular values of R1 R2^T, and no square root of an ill-conditioned matrix is taken.
    factors = [
        torch.linalg.qr((vectors.double() - mean) / (len(vectors) - 1) ** 0.5, mode="r").R
        for vectors, mean in zip((first, second), means, strict=True)
    ]
    traces = sum(float(factor.square().sum()) for factor in factors)
    shared = float(torch.linalg.svdvals(factors[0] @ factors[1].T).sum())
    return float((means[0] - means[1]).square().sum()) + traces - 2 * shared

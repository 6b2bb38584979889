"""Whether images look like images, and whether they cover all kinds of them."""

import torch
from torch import Tensor

NEIGHBOURS = 3


def precision_recall(
    samples: Tensor, images: Tensor, *, neighbours: int = NEIGHBOURS, chunk: int = 1024
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 and 2).

    A set covers a vector that lies within the ball of one of its own, whose radius is the Euclidean distance to that
    vector's k-th nearest neighbour in the set.

    Args:
        images: (N, D).
        images: (M, D).
        neighbours: k, less than N and than M.
        chunk: vectors compared at a time; bounds memory at chunk × max(N, M).

    Returns:
        Share of images that the images cover, and share of images that the images cover.
    """
    return _covered(samples, images, neighbours, chunk), _covered(images, samples, neighbours, chunk)


def _covered(asked: Tensor, by: Tensor, neighbours: int, chunk: int) -> float:
    # The nearest of all is the vector itself, at distance 0.
    radii = torch.cat([_distances(part, by).kthvalue(neighbours + 1, dim=1).values for part in by.split(chunk)])
    return float(torch.cat([(_distances(part, by) <= radii).any(dim=1) for part in asked.split(chunk)]).double().mean())


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # A matrix product would be faster, and would find a vector at some distance from itself.
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")

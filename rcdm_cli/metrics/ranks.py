"""How faithful images are: is the representation of a sample nearest to the one it was sampled for?"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.bootstrap import Bootstrap, Interval

TIE = 1e-6
"""Similarities that differ by no more are equal: a matrix product rounds those of equal vectors differently."""


def ranks(queries: Tensor, bank: Tensor, own: Tensor) -> Tensor:
    """Rank of ``bank[own[i]]`` among all of ``bank`` by cosine similarity to ``queries[i]``; 1 is nearest.

    The paper's measure of faithfulness (arXiv:2112.09164, section 4): the representation of a sample should be
    nearest to the one that it was sampled for. Of equally near vectors, the own one counts as the last, so that a
    collapsed encoder cannot score.

    Args:
        queries: (Q, D).
        bank: (N, D).
        own: (Q,) int64 indices into the bank.

    Returns:
        (Q,) int64.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    mine = similarity.gather(1, own[:, None])
    return (similarity >= mine - TIE).sum(dim=1)


def mean_reciprocal_rank(values: Tensor) -> float:
    """Mean of 1 / rank: 1 when every own vector is nearest."""
    return float((1 / values.double()).mean())


def own_similarity(queries: Tensor, targets: Tensor) -> Tensor:
    """Cosine similarity of each query (Q, D) to its target (Q, D): (Q,) in [-1, 1]."""
    return torch.nn.functional.cosine_similarity(queries, targets, dim=1)


@dataclass(frozen=True)
class Faithfulness:
    """One (method, level); intervals are over the images asked about.

    Attributes:
        mean_reciprocal_rank: of the image's own representation among those of all images; 1 is perfect.
        mean_rank: the same as a mean of ranks; 1 is perfect.
        similarity: mean cosine similarity of the sample's representation to ``h``.
    """

    mean_reciprocal_rank: Interval
    mean_rank: Interval
    similarity: Interval

    def as_json(self) -> dict[str, object]:
        """The same as JSON-able values."""
        return {name: interval.as_json() for name, interval in self.__dict__.items()}


def faithfulness(found: Tensor, h: Tensor, bootstrap: Bootstrap, *, chunk: int = 1024) -> Faithfulness:
    """Rank each image's own representation among all, by nearness to those of its samples.

    The measure of the paper (arXiv:2112.09164, section 4).

    Args:
        found: (N, K, D), the representations of K samples of each image.
        h: (N, D), the representations that they were sampled for.
        bootstrap: over the N images.
        chunk: samples compared at a time; bounds memory at chunk × N.
    """
    count, num_samples = found.shape[:2]
    flat, own = found.flatten(0, 1), torch.arange(count).repeat_interleave(num_samples)
    parts = zip(flat.split(chunk), own.split(chunk), strict=True)
    rank = torch.cat([ranks(queries, h, mine) for queries, mine in parts]).double().reshape(count, num_samples)
    similarity = own_similarity(flat, h[own]).reshape(count, num_samples)
    return Faithfulness(*(bootstrap.mean(values.mean(dim=1)) for values in (1 / rank, rank, similarity)))

"""Faithfulness of samples: rank of the conditioning representation by similarity to the sample's representation."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.intervals import Bootstrap, Interval

TIE = 1e-6
"""Similarities that differ by less count as equal, since a matrix product rounds equal vectors differently."""


def ranks(queries: Tensor, bank: Tensor, own: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return the rank of ``bank[own[i]]`` in ``bank`` by cosine similarity to ``queries[i]``; rank 1 is nearest.

    The paper's measure of faithfulness (arXiv:2112.09164, section 4). Among equally near vectors, the own vector is
    ranked last, so that a collapsed encoder has the worst rank.

    Args:
        queries: (Q, D).
        bank: (N, D).
        own: (Q,) int64 indices into the bank.
        chunk: queries compared per step; memory is bounded by chunk × N.

    Returns:
        (Q,) int64.
    """
    unit = F.normalize(bank, dim=1).T
    found = []
    for part, mine in zip(queries.split(chunk), own.split(chunk), strict=True):
        similarity = F.normalize(part, dim=1) @ unit
        found.append((similarity >= similarity.gather(1, mine[:, None]) - TIE).sum(dim=1))
    return torch.cat(found)


def mean_reciprocal_rank(values: Tensor) -> float:
    """Return the mean of 1 / rank; 1 if every own vector is nearest."""
    return float((1 / values.double()).mean())


def own_similarity(queries: Tensor, targets: Tensor) -> Tensor:
    """Return the cosine similarity of each query (Q, D) to its target (Q, D): (Q,) in [-1, 1]."""
    return F.cosine_similarity(queries, targets, dim=1)


@dataclass(frozen=True)
class Faithfulness:
    """Faithfulness of the samples at one (method, level), with bootstrap intervals over images.

    Attributes:
        mean_reciprocal_rank: mean of 1 / rank of the image's own representation among all images; 1 is perfect.
        mean_rank: mean rank of the image's own representation among all images; 1 is perfect.
        similarity: mean cosine similarity of the samples' representations to ``h``.
    """

    mean_reciprocal_rank: Interval
    mean_rank: Interval
    similarity: Interval

    def as_json(self) -> dict[str, object]:
        """Return all numbers as JSON-able values."""
        return asdict(self)


def faithfulness(found: Tensor, h: Tensor, bootstrap: Bootstrap) -> Faithfulness:
    """Rank each image's own representation among all images by similarity to the samples' representations.

    Args:
        found: (N, K, D), representations of K samples per image.
        h: (N, D), representations that the samples are conditioned on.
        bootstrap: resamples of the N images.
    """
    count, num_samples = found.shape[:2]
    flat, own = found.flatten(0, 1), torch.arange(count).repeat_interleave(num_samples)
    rank = ranks(flat, h, own).double().reshape(count, num_samples)
    similarity = own_similarity(flat, h[own]).reshape(count, num_samples)
    return Faithfulness(*(bootstrap.mean(values.mean(dim=1)) for values in (1 / rank, rank, similarity)))

"""Faithfulness of samples: rank of the conditioning representation by similarity to the sample's representation."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.intervals import Bootstrap, Interval

TIE = 1e-6
"""Similarities that differ by less count as equal, since a matrix product rounds equal vectors differently."""


def ranks(queries: Tensor, bank: Tensor, target: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return the rank of ``bank[target[i]]`` in ``bank`` by cosine similarity to ``queries[i]``; rank 1 is nearest.

    The paper's measure of faithfulness (arXiv:2112.09164, section 4). Among equally near vectors, the target is
    ranked last, so that a collapsed encoder has the worst rank.

    Args:
        queries: (Q, D).
        bank: (N, D).
        target: (Q,) int64 indices into the bank.
        chunk: queries compared per step; memory is bounded by chunk × N.

    Returns:
        (Q,) int64.
    """
    unit = F.normalize(bank, dim=1).T
    result = []
    for part, index in zip(queries.split(chunk), target.split(chunk), strict=True):
        similarity = F.normalize(part, dim=1) @ unit
        result.append((similarity >= similarity.gather(1, index[:, None]) - TIE).sum(dim=1))
    return torch.cat(result)


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


def faithfulness(sample_h: Tensor, h: Tensor, bootstrap: Bootstrap) -> Faithfulness:
    """Rank each image's own representation among all images by similarity to the samples' representations.

    Args:
        sample_h: (N, K, D), representations of K samples per image.
        h: (N, D), representations that the samples are conditioned on.
        bootstrap: resamples of the N images.
    """
    count, num_samples = sample_h.shape[:2]
    flat, target = sample_h.flatten(0, 1), torch.arange(count).repeat_interleave(num_samples)
    rank = ranks(flat, h, target).double().reshape(count, num_samples)
    similarity = own_similarity(flat, h[target]).reshape(count, num_samples)
    return Faithfulness(*(bootstrap.mean(values.mean(dim=1)) for values in (1 / rank, rank, similarity)))

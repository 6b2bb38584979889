"""How well a representation is found again among others."""

import torch
from torch import Tensor
from torch.nn import functional as F

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

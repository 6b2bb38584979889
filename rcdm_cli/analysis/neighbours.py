"""Nearest neighbours of a representation among many, in bounded memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

SAME = 1e-4
"""A neighbour nearer than this share of the query's length is the query itself, encoded once more."""

CHUNK = 65536


def nearest(queries: Tensor, bank: Tensor, count: int, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """The ``count`` vectors of ``bank`` with the largest cosine similarity to each query, nearest first.

    The bank is gone through in chunks of which only the best are held: beyond the bank itself, memory is bounded at
    ``chunk`` × (D + Q) numbers, however many vectors it has. Of equally near vectors the earlier comes first.

    Args:
        queries: (Q, D).
        bank: (N, D).
        count: at most N are given.
        chunk: vectors of the bank compared at a time.

    Returns:
        Similarity (Q, count) in [-1, 1], and index into the bank (Q, count) int64.
    """
    queries = F.normalize(queries.float(), dim=1)
    best = torch.empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(bank), chunk):
        part = bank[start : start + chunk].float()
        similarity = queries @ F.normalize(part, dim=1).T
        candidates = torch.cat([best, similarity], dim=1)
        where = torch.cat([index, torch.arange(start, start + len(part)).expand(len(queries), -1)], dim=1)
        order = candidates.argsort(dim=1, descending=True, stable=True)[:, :count]
        best, index = candidates.gather(1, order), where.gather(1, order)
    return best, index


def neighbours_of(h: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As ``nearest`` for one ``h`` (D,), which does not count as its own neighbour: (count,) and (count,).

    Where the bank holds the very photo, however often, its vectors are left out; they may differ by rounding.
    """
    copies = sum(int(_is_same(part, h).sum()) for part in bank.split(CHUNK))
    similarity, index = (found[0] for found in nearest(h[None], bank, count + copies))
    others = ~_is_same(bank[index], h)
    return similarity[others][:count], index[others][:count]


def _is_same(vectors: Tensor, h: Tensor) -> Tensor:
    same: Tensor = (vectors.float() - h).norm(dim=1) <= SAME * h.norm()
    return same

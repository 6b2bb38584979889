"""k-nearest-neighbour classification of frozen representations."""

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_predict(
    queries: Tensor,
    bank: Tensor,
    labels: Tensor,
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
    leave_one_out: bool = False,
    chunk: int = 1024,
) -> Tensor:
    """Weighted k-NN vote on cosine similarity (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Each of the nearest bank vectors votes for its class with weight ``exp(similarity / temperature)``.

    Args:
        queries: (Q, D).
        bank: (N, D).
        labels: (N,) int64 classes of the bank, 0-based.
        neighbours: how many vote; at most the bank's size.
        temperature: of the votes.
        leave_one_out: the queries are the bank itself, and no vector votes for its own class.
        chunk: queries compared at a time; bounds memory at chunk × N.

    Returns:
        (Q,) int64 predicted classes.
    """
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    predicted = []
    for start in range(0, len(queries), chunk):
        similarity = queries[start : start + chunk] @ bank.T
        if leave_one_out:
            rows = torch.arange(len(similarity))
            similarity[rows, start + rows] = -torch.inf
        top, index = similarity.topk(min(neighbours, len(bank) - leave_one_out), dim=1)
        votes = torch.zeros(len(top), classes, dtype=top.dtype)
        votes.scatter_add_(1, labels[index], (top / temperature).exp())
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)

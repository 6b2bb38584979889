"""Nearest neighbours by cosine similarity: search, k-NN classification, memorised training images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.intervals import Bootstrap

COPY_TOLERANCE = 1e-4
"""Two representations of the same image differ by less than this fraction of their norm."""

CHUNK = 65536


def nearest(queries: Tensor, bank: Tensor, count: int, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Find the ``count`` vectors of ``bank`` with the largest cosine similarity to each query, nearest first.

    The bank is searched in chunks. Beyond the bank, memory is bounded by ``chunk`` × (D + Q) numbers. Among equally
    near vectors, the earlier vector comes first.

    Args:
        queries: (Q, D).
        bank: (N, D).
        count: number of neighbours per query; at most N are returned.
        chunk: vectors of the bank compared per step.

    Returns:
        Cosine similarity (Q, count) in [-1, 1].
        Index into the bank (Q, count), int64.
    """
    queries = F.normalize(queries.float(), dim=1)
    best = torch.empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(bank), chunk):
        part = bank[start : start + chunk].float()
        similarity = queries @ F.normalize(part, dim=1).T
        candidates = torch.cat([best, similarity], dim=1)
        positions = torch.cat([index, torch.arange(start, start + len(part)).expand(len(queries), -1)], dim=1)
        order = candidates.argsort(dim=1, descending=True, stable=True)[:, :count]
        best, index = candidates.gather(1, order), positions.gather(1, order)
    return best, index


def nearest_image(queries: Tensor, bank: Tensor, *, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Return cosine similarity (Q,) and index (Q,) of the nearest vector in ``bank`` (M, D) for ``queries`` (Q, D)."""
    found = [nearest(part, bank, 1) for part in queries.split(chunk)]
    return torch.cat([one[0][:, 0] for one in found]), torch.cat([one[1][:, 0] for one in found])


def nearest_without_copies(h: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the ``count`` nearest vectors to ``h`` (D,), without copies of ``h`` itself.

    Copies are vectors within ``COPY_TOLERANCE``: the same image, encoded again.

    Returns:
        Cosine similarity (count,).
        Index into the bank (count,), int64.
    """
    copies = sum(int(is_copy(part, h).sum()) for part in bank.split(CHUNK))
    similarity, index = (found[0] for found in nearest(h[None], bank, count + copies))
    others = ~is_copy(bank[index], h)
    return similarity[others][:count], index[others][:count]


def is_copy(vectors: Tensor, h: Tensor) -> Tensor:
    """Return whether each of ``vectors`` (N, D) equals ``h`` (D,) or (N, D) up to ``COPY_TOLERANCE``: bool (N,)."""
    same: Tensor = (vectors.float() - h).norm(dim=1) <= COPY_TOLERANCE * h.norm(dim=-1)
    return same


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
    """Classify by weighted k-NN voting on cosine similarity (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Each of the nearest bank vectors votes for its class with weight ``exp(similarity / temperature)``.

    Args:
        queries: (Q, D).
        bank: (N, D).
        labels: (N,) int64 classes of the bank, 0-based.
        neighbours: number of voting neighbours; at most the bank's size.
        temperature: temperature of the voting weights.
        leave_one_out: the queries are the bank itself; a vector does not vote for its own class.
        chunk: queries compared per step; memory is bounded by chunk × N.

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


MEMORISATION_QUANTILE = 0.99
"""Quantile of the similarity between new images and training images that serves as the memorisation threshold."""

QUANTILES = tuple(step / 20 for step in range(21))


@dataclass(frozen=True)
class Memorised:
    """Nearest training images to the samples of one (method, level).

    Attributes:
        similarity: (N, K) cosine similarity of each sample to its nearest training image.
        index: (N, K) index of the nearest training image in the bank.
        threshold: ``MEMORISATION_QUANTILE`` of the similarity between the analysed images, which the denoiser was not
            trained on, and their nearest training images.
    """

    similarity: Tensor
    index: Tensor
    threshold: float

    @property
    def share_above(self) -> Tensor:
        """Fraction of each image's samples above the threshold: (N,). For new images, expect ``expected_above``."""
        return (self.similarity > self.threshold).double().mean(dim=1)

    def most_similar(self, count: int) -> list[tuple[int, int]]:
        """Return (image, sample) indices of the ``count`` samples nearest to a training image, nearest first."""
        order = self.similarity.flatten().argsort(descending=True, stable=True)[:count]
        num_samples = self.similarity.shape[1]
        return [(int(index) // num_samples, int(index) % num_samples) for index in order]

    def as_json(self, names: Sequence[str], bootstrap: Bootstrap) -> dict[str, object]:
        """Return all numbers as JSON-able values; ``names`` are the names of the bank's images."""
        return {
            "above": asdict(bootstrap.mean(self.share_above)),
            "quantiles": quantiles(self.similarity),
            "similarity": self.similarity.tolist(),
            "image": [[names[k] for k in row] for row in self.index.tolist()],
        }


def expected_above(count: int) -> float:
    """Return the expected fraction of new images above a threshold that was estimated from ``count`` images.

    The k-th smallest of n numbers exceeds on average k / (n + 1) of the distribution. The threshold is at rank
    ``MEMORISATION_QUANTILE * (n - 1) + 1``. For 30 images, the expected fraction is 4 %.
    """
    return 1 - (MEMORISATION_QUANTILE * (count - 1) + 1) / (count + 1)


def memorised(features: Tensor, images: Tensor, bank: Tensor) -> Memorised:
    """Find the nearest training image of each sample, and the threshold from images new to the denoiser.

    Args:
        features: (N, K, D), representations of the samples.
        images: (N, D), representations of the analysed images.
        bank: (M, D), representations of the training images.
    """
    similarity, index = nearest_image(features.flatten(0, 1), bank)
    threshold = float(nearest_image(images, bank)[0].quantile(MEMORISATION_QUANTILE))
    return Memorised(similarity.reshape(features.shape[:2]), index.reshape(features.shape[:2]), threshold)


def quantiles(values: Tensor) -> list[float]:
    """Return the values at ``QUANTILES``."""
    found: list[float] = values.flatten().double().quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return found

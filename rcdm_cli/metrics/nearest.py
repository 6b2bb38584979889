"""Whether images are copies: the training image nearest to each sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.metrics.bootstrap import Bootstrap

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

    Where the bank holds the very image, however often, its vectors are left out; they may differ by rounding.
    """
    copies = sum(int(_is_same(part, h).sum()) for part in bank.split(CHUNK))
    similarity, index = (found[0] for found in nearest(h[None], bank, count + copies))
    others = ~_is_same(bank[index], h)
    return similarity[others][:count], index[others][:count]


def _is_same(vectors: Tensor, h: Tensor) -> Tensor:
    same: Tensor = (vectors.float() - h).norm(dim=1) <= SAME * h.norm()
    return same


BELOW = 0.99
"""Of new images, this share is less near to a training image than the bar that samples are held to."""

QUANTILES = tuple(step / 20 for step in range(21))


@dataclass(frozen=True)
class Memorised:
    """Samples of one (method, level) and the training images nearest to them.

    Attributes:
        similarity: (N, K) cosine similarity of each sample to its nearest training image, in the named space.
        index: (N, K) of that image in the bank.
        bar: similarity that ``BELOW`` of the images asked about do not reach; they are new to the denoiser.
    """

    similarity: Tensor
    index: Tensor
    bar: float

    @property
    def above(self) -> Tensor:
        """(N,), the share of each image's samples beyond the bar; ``expected_above`` is what new images have."""
        return (self.similarity > self.bar).double().mean(dim=1)

    def most_similar(self, count: int) -> list[tuple[int, int]]:
        """(image, sample) of the samples nearest to a training image, nearest first."""
        order = self.similarity.flatten().argsort(descending=True, stable=True)[:count]
        num_samples = self.similarity.shape[1]
        return [(int(place) // num_samples, int(place) % num_samples) for place in order]

    def as_json(self, names: Sequence[str], bootstrap: Bootstrap) -> dict[str, object]:
        """Every number; ``names`` are those of the bank's images."""
        return {
            "above": bootstrap.mean(self.above).as_json(),
            "quantiles": quantiles(self.similarity),
            "similarity": self.similarity.tolist(),
            "image": [[names[k] for k in row] for row in self.index.tolist()],
        }


def expected_above(count: int) -> float:
    """Share of images new to the denoiser that is expected beyond the bar, where the bar comes from ``count`` images.

    The k-th smallest of n numbers has on average k / (n + 1) of all others below it, whatever their distribution; the
    bar lies at place ``BELOW * (n - 1) + 1``, between two of them. Of 30 images, 4 % of new ones are beyond it.
    """
    return 1 - (BELOW * (count - 1) + 1) / (count + 1)


def memorised(features: Tensor, images: Tensor, bank: Tensor) -> Memorised:
    """Find each sample's nearest training image, and hold it against what images new to the denoiser have.

    Args:
        features: (N, K, D), of the samples, in one encoder's space.
        images: (N, D), of the images asked about.
        bank: (M, D), of the training images.
    """
    similarity, index = nearest_image(features.flatten(0, 1), bank)
    bar = float(nearest_image(images, bank)[0].quantile(BELOW))
    return Memorised(similarity.reshape(features.shape[:2]), index.reshape(features.shape[:2]), bar)


def nearest_image(queries: Tensor, bank: Tensor, *, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Cosine similarity (Q,) of each of ``queries`` (Q, D) to the nearest of ``bank`` (M, D), and its index (Q,)."""
    found = [nearest(part, bank, 1) for part in queries.split(chunk)]
    return torch.cat([one[0][:, 0] for one in found]), torch.cat([one[1][:, 0] for one in found])


def quantiles(values: Tensor) -> list[float]:
    """The values at ``QUANTILES``."""
    found: list[float] = values.flatten().double().quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return found

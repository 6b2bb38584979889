"""Whether pictures are copies: the training photo nearest to each sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcdm_cli.analysis.bootstrap import Bootstrap
from rcdm_cli.analysis.neighbours import nearest

BELOW = 0.99
"""Of new photos, this share is less near to a training photo than the bar that samples are held to."""

QUANTILES = tuple(step / 20 for step in range(21))


@dataclass(frozen=True)
class Memorised:
    """Samples of one (method, level) and the training photos nearest to them.

    Attributes:
        similarity: (N, K) cosine similarity of each sample to its nearest training photo, in the named space.
        index: (N, K) of that photo in the bank.
        bar: similarity that ``BELOW`` of the photos asked about do not reach; they are new to the denoiser.
    """

    similarity: Tensor
    index: Tensor
    bar: float

    @property
    def above(self) -> Tensor:
        """(N,), the share of each photo's samples beyond the bar; ``expected_above`` is what new photos have."""
        return (self.similarity > self.bar).double().mean(dim=1)

    def most_similar(self, count: int) -> list[tuple[int, int]]:
        """(photo, sample) of the samples nearest to a training photo, nearest first."""
        order = self.similarity.flatten().argsort(descending=True, stable=True)[:count]
        samples = self.similarity.shape[1]
        return [(int(place) // samples, int(place) % samples) for place in order]

    def as_json(self, names: Sequence[str], bootstrap: Bootstrap) -> dict[str, object]:
        """Every number; ``names`` are those of the bank's photos."""
        return {
            "above": bootstrap.mean(self.above).as_json(),
            "quantiles": quantiles(self.similarity),
            "similarity": self.similarity.tolist(),
            "photo": [[names[k] for k in row] for row in self.index.tolist()],
        }


def expected_above(count: int) -> float:
    """Share of photos new to the denoiser that is expected beyond the bar, where the bar comes from ``count`` photos.

    The k-th smallest of n numbers has on average k / (n + 1) of all others below it, whatever their distribution; the
    bar lies at place ``BELOW * (n - 1) + 1``, between two of them. Of 30 photos, 4 % of new ones are beyond it.
    """
    return 1 - (BELOW * (count - 1) + 1) / (count + 1)


def memorised(features: Tensor, photos: Tensor, bank: Tensor) -> Memorised:
    """Find each sample's nearest training photo, and hold it against what photos new to the denoiser have.

    Args:
        features: (N, K, D), of the samples, in one encoder's space.
        photos: (N, D), of the photos asked about.
        bank: (M, D), of the training photos.
    """
    similarity, index = nearest_photo(features.flatten(0, 1), bank)
    bar = float(nearest_photo(photos, bank)[0].quantile(BELOW))
    return Memorised(similarity.reshape(features.shape[:2]), index.reshape(features.shape[:2]), bar)


def nearest_photo(queries: Tensor, bank: Tensor, *, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Cosine similarity (Q,) of each of ``queries`` (Q, D) to the nearest of ``bank`` (M, D), and its index (Q,)."""
    found = [nearest(part, bank, 1) for part in queries.split(chunk)]
    return torch.cat([one[0][:, 0] for one in found]), torch.cat([one[1][:, 0] for one in found])


def quantiles(values: Tensor) -> list[float]:
    """The values at ``QUANTILES``."""
    found: list[float] = values.flatten().double().quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return found

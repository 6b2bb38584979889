"""Results of a visualization: samples, spreads, similarities and ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.ranks import mean_reciprocal_rank


def root_mean_square(values: Sequence[NDArray[np.float32]]) -> float:
    """Return the root of the mean square of all ``values``."""
    return float(np.sqrt(np.mean(np.square(np.stack(values), dtype=np.float64))))


@dataclass(frozen=True)
class ImageResult:
    """Samples of one image at one (method, level).

    Attributes:
        samples: uint8 (K, S, S, 3).
        spread: float32 (S, S), standard deviation of each pixel over the samples as a fraction of the pixel range: root
            of the unbiased variance, averaged over RGB. None for a single sample.
        similarity: K cosine similarities between the representation of a sample and ``h``.
        rank: K ranks of ``h`` among the representations of all images, by similarity to the representation of the
            sample. 1 is the most similar.
    """

    samples: Pixels
    spread: NDArray[np.float32] | None
    similarity: list[float]
    rank: list[int]

    @property
    def mean_spread(self) -> float | None:
        """Root of the mean variance over pixels, whose expectation does not depend on K; None for a single sample."""
        return None if self.spread is None else root_mean_square([self.spread])


@dataclass(frozen=True)
class Visualization:
    """Samples of N images at every (method, level). An image has the same noise at every pair.

    Attributes:
        names: N file names.
        images: N images uint8 (H, W, 3), reduced to the size of the networks; None if only ``h`` was given.
        seeds: N lists of K seeds.
        results: by pair, N results.
        unreadable: paths of images that were skipped.
    """

    names: list[str]
    images: list[Pixels | None]
    seeds: list[list[int]]
    results: dict[Pair, list[ImageResult]]
    unreadable: list[str]

    @property
    def pairs(self) -> list[Pair]:
        """The (method, level) pairs."""
        return list(self.results)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        return {
            "summary": [
                {
                    **pair._asdict(),
                    "mean_reciprocal_rank": mean_reciprocal_rank(
                        torch.tensor([r for entry in found for r in entry.rank])
                    ),
                    "mean_similarity": float(np.mean([entry.similarity for entry in found])),
                    "mean_spread": None
                    if any(entry.spread is None for entry in found)
                    else root_mean_square([entry.spread for entry in found if entry.spread is not None]),
                }
                for pair, found in self.results.items()
            ],
            "images": [
                {
                    "image": name,
                    "seeds": self.seeds[i],
                    "representations": [
                        {
                            **pair._asdict(),
                            "similarity": found[i].similarity,
                            "rank": found[i].rank,
                            "mean_spread": found[i].mean_spread,
                        }
                        for pair, found in self.results.items()
                    ],
                }
                for i, name in enumerate(self.names)
            ],
        }

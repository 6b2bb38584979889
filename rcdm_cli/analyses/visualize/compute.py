"""What does a representation know? Many pictures of it: what they share, it holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.step_cache import Kept, kept_pictures
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.diffusion.noise import picture_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.ranks import mean_reciprocal_rank, own_similarity, ranks

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """One photo at one (method, level).

    Attributes:
        pictures: uint8 (K, S, S, 3), one a seed.
        spread: float32 (S, S): standard deviation over the pictures, as a share of the pixel range, averaged over RGB.
        similarity: cosine similarity of each picture's representation to ``h``.
        rank: of the photo's own representation among those of all photos given, by nearness to each picture's; 1 is
            nearest.
    """

    pictures: Pixels
    spread: NDArray[np.float32]
    similarity: list[float]
    rank: list[int]


@dataclass(frozen=True)
class Visualization:
    """Pictures of every photo at every (method, level); the same photo has the same noise at all of them.

    Attributes:
        names: of the photos.
        seeds: (photos, K).
        pairs: what was asked.
        seen: by pair, one a photo.
    """

    names: list[str]
    seeds: list[list[int]]
    pairs: list[Pair]
    seen: dict[Pair, list[Seen]]

    def as_json(self) -> dict[str, Any]:
        """Every number, without the pixels."""
        return {
            "summary": [
                {
                    "method": pair.method,
                    "level": pair.level,
                    "mean_reciprocal_rank": mean_reciprocal_rank(torch.tensor([r for one in seen for r in one.rank])),
                    "mean_similarity": float(np.mean([one.similarity for one in seen])),
                    "mean_spread": float(np.mean([one.spread for one in seen])),
                }
                for pair, seen in self.seen.items()
            ],
            "photos": [
                {
                    "photo": name,
                    "seeds": self.seeds[i],
                    "representations": [
                        {
                            "method": pair.method,
                            "level": pair.level,
                            "similarity": self.seen[pair][i].similarity,
                            "rank": self.seen[pair][i].rank,
                            "mean_spread": float(self.seen[pair][i].spread.mean()),
                        }
                        for pair in self.pairs
                    ],
                }
                for i, name in enumerate(self.names)
            ],
        }


def visualize(
    bundle: Bundle,
    kept: Kept,
    names: Sequence[str],
    known: Mapping[Pair, Tensor],
    *,
    samples: int,
    settings: Settings,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_picture: Callable[[int, Pair, int, Pixels], None] = lambda photo, pair, k, picture: None,
) -> Visualization:
    """Sample ``samples`` pictures of every representation of every photo, and measure what they share.

    Args:
        bundle: encoders and denoiser.
        kept: where pictures lie until all are made.
        names: of the photos, for the results.
        known: by pair to look at, ``h`` of every photo, float32 (len(names), D).
        samples: pictures of each representation, K.
        settings: sampler, steps, guidance.
        seed: start of all randomness.
        batch: pictures made at a time.
        on_progress: called with (pictures done, pictures).
        on_picture: called with each picture as it is there: number of the photo, pair, k, uint8 (S, S, 3).
    """
    count, pairs = len(names), list(known)
    seeds = [[picture_seed(seed, photo, k) for k in range(samples)] for photo in range(count)]
    flat = [one for row in seeds for one in row]
    cond = [bundle.condition(known[pair], method=pair.method, level=pair.level) for pair in pairs]

    def hand_on(start: int, made: Pixels) -> None:
        for index, picture in enumerate(made, start):
            pair, photo, k = map(int, np.unravel_index(index, (len(pairs), count, samples)))
            on_picture(photo, pairs[pair], k, picture)

    pictures = kept_pictures(
        bundle,
        kept,
        torch.cat(cond).repeat_interleave(samples, dim=0),
        flat * len(pairs),
        settings,
        batch=batch,
        on_progress=on_progress,
        on_pictures=hand_on,
    )
    by_pair = pictures.reshape(len(pairs), count, samples, *pictures.shape[1:])
    seen = {pair: _measure(bundle, pair, known[pair], made) for pair, made in zip(pairs, by_pair, strict=True)}
    return Visualization(list(names), seeds, pairs, seen)


def _measure(bundle: Bundle, pair: Pair, h: Tensor, pictures: Pixels) -> list[Seen]:
    count, samples = pictures.shape[:2]
    found = bundle.encode(list(pictures.reshape(-1, *pictures.shape[2:])), method=pair.method, level=pair.level)
    own = torch.arange(count).repeat_interleave(samples)
    similarity = own_similarity(found, h[own]).reshape(count, samples).tolist()
    rank = ranks(found, h, own).reshape(count, samples).tolist()
    return [Seen(made, spread(made), similarity[i], rank[i]) for i, made in enumerate(pictures)]


def spread(pictures: Pixels) -> NDArray[np.float32]:
    """Per-pixel standard deviation over pictures uint8 (K, H, W, 3), averaged over RGB: float32 (H, W) in [0, 0.5]."""
    deviation: NDArray[np.float32] = (pictures.astype(np.float32) / 255).std(axis=0).mean(axis=-1)
    return deviation

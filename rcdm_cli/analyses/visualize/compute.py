"""What does a representation know? Many samples of it: what they share, it holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.step_cache import StepCache, cached_samples
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.ranks import mean_reciprocal_rank, own_similarity, ranks

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageResult:
    """One image at one (method, level).

    Attributes:
        samples: uint8 (K, S, S, 3), one a seed.
        spread: float32 (S, S): standard deviation over the samples, as a share of the pixel range, averaged over RGB.
        similarity: cosine similarity of each sample's representation to ``h``.
        rank: of the image's own representation among those of all images given, by nearness to each sample's; 1 is
            nearest.
    """

    samples: Pixels
    spread: NDArray[np.float32]
    similarity: list[float]
    rank: list[int]


@dataclass(frozen=True)
class Visualization:
    """Samples of every image at every (method, level); the same image has the same noise at all of them.

    Attributes:
        names: of the images.
        seeds: (images, K).
        pairs: what was asked.
        seen: by pair, one an image.
    """

    names: list[str]
    seeds: list[list[int]]
    pairs: list[Pair]
    seen: dict[Pair, list[ImageResult]]

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
            "images": [
                {
                    "image": name,
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
    cache: StepCache,
    names: Sequence[str],
    known: Mapping[Pair, Tensor],
    *,
    num_samples: int,
    settings: Settings,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_sample: Callable[[int, Pair, int, Pixels], None] = lambda image, pair, k, sample: None,
) -> Visualization:
    """Sample ``samples`` samples of every representation of every image, and measure what they share.

    Args:
        bundle: encoders and denoiser.
        cache: where samples lie until all are made.
        names: of the images, for the results.
        known: by pair to look at, ``h`` of every image, float32 (len(names), D).
        samples: samples of each representation, K.
        settings: sampler, steps, guidance.
        seed: start of all randomness.
        batch: samples made at a time.
        on_progress: called with (samples done, samples).
        on_sample: called with each sample as it is there: number of the image, pair, k, uint8 (S, S, 3).
    """
    count, pairs = len(names), list(known)
    seeds = [[sample_seed(seed, image, k) for k in range(num_samples)] for image in range(count)]
    flat = [one for row in seeds for one in row]
    cond = [bundle.condition(known[pair], method=pair.method, level=pair.level) for pair in pairs]

    def hand_on(start: int, made: Pixels) -> None:
        for index, sample in enumerate(made, start):
            pair, image, k = map(int, np.unravel_index(index, (len(pairs), count, num_samples)))
            on_sample(image, pairs[pair], k, sample)

    samples = cached_samples(
        bundle,
        cache,
        torch.cat(cond).repeat_interleave(num_samples, dim=0),
        flat * len(pairs),
        settings,
        batch=batch,
        on_progress=on_progress,
        on_samples=hand_on,
    )
    by_pair = samples.reshape(len(pairs), count, num_samples, *samples.shape[1:])
    seen = {pair: _measure(bundle, pair, known[pair], made) for pair, made in zip(pairs, by_pair, strict=True)}
    return Visualization(list(names), seeds, pairs, seen)


def _measure(bundle: Bundle, pair: Pair, h: Tensor, samples: Pixels) -> list[ImageResult]:
    count, num_samples = samples.shape[:2]
    found = bundle.encode(list(samples.reshape(-1, *samples.shape[2:])), method=pair.method, level=pair.level)
    own = torch.arange(count).repeat_interleave(num_samples)
    similarity = own_similarity(found, h[own]).reshape(count, num_samples).tolist()
    rank = ranks(found, h, own).reshape(count, num_samples).tolist()
    return [ImageResult(made, spread(made), similarity[i], rank[i]) for i, made in enumerate(samples)]


def spread(samples: Pixels) -> NDArray[np.float32]:
    """Per-pixel standard deviation over samples uint8 (K, H, W, 3), averaged over RGB: float32 (H, W) in [0, 0.5]."""
    deviation: NDArray[np.float32] = (samples.astype(np.float32) / 255).std(axis=0).mean(axis=-1)
    return deviation

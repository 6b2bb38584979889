"""The spaces that samples are compared with images in: that of a named encoder, and Inception's where it is given."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.step_cache import StepCache, cached_representations, images_hash
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import Distances, distances
from rcdm_cli.metrics.inception import Inception, InceptionScore, inception_score

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class InInception:
    """A set of samples against the images in the Inception space: FID, KID and the rest, and the inception score."""

    distances: Distances
    score: InceptionScore

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values, by the names that they have in this space only."""
        known = self.distances.as_json()
        return {"fid": known.pop("frechet"), "kid": known.pop("kernel"), **known, "inception_score": asdict(self.score)}


@dataclass(frozen=True)
class Features:
    """Of samples, in the named encoder's space (N, D), and in the Inception space of those that count there."""

    own: Tensor
    inception: Tensor | None
    logits: Tensor | None

    def against(self, images: "Features") -> InInception | None:
        """FID and the rest against ``images``; None without Inception."""
        if self.inception is None or self.logits is None or images.inception is None:
            return None
        return InInception(distances(self.inception, images.inception), inception_score(self.logits))


@dataclass(frozen=True)
class Space:
    """Where distances are measured."""

    bundle: Bundle
    cache: StepCache
    pair: Pair
    inception: Inception | None

    def of(self, samples: Pixels, every: int = 1) -> Features:
        """Features of samples uint8 (N, S, S, 3); Inception sees every ``every``-th of them."""
        own = cached_representations(self.bundle, self.cache, list(samples), [self.pair])[self.pair]
        if self.inception is None:
            return Features(own, None, None)
        network, counted = self.inception, samples[::every]
        key = {"step": "inception", "samples": images_hash(list(counted)), "weights": network.sha256}
        found = self.cache.get_or_compute(key, lambda: network.features(counted))
        return Features(own, found["features"], found["logits"])

"""The spaces that pictures are compared with photos in: that of a named encoder, and Inception's where it is given."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.step_cache import Kept, kept_representations, photos_hash
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import Distances, distances
from rcdm_cli.metrics.inception import Inception, InceptionScore, inception_score

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class InInception:
    """A set of pictures against the photos in the Inception space: FID, KID and the rest, and the inception score."""

    distances: Distances
    score: InceptionScore

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values, by the names that they have in this space only."""
        known = self.distances.as_json()
        return {"fid": known.pop("frechet"), "kid": known.pop("kernel"), **known, "inception_score": asdict(self.score)}


@dataclass(frozen=True)
class Features:
    """Of pictures, in the named encoder's space (N, D), and in the Inception space of those that count there."""

    own: Tensor
    inception: Tensor | None
    logits: Tensor | None

    def against(self, photos: "Features") -> InInception | None:
        """FID and the rest against ``photos``; None without Inception."""
        if self.inception is None or self.logits is None or photos.inception is None:
            return None
        return InInception(distances(self.inception, photos.inception), inception_score(self.logits))


@dataclass(frozen=True)
class Space:
    """Where distances are measured."""

    bundle: Bundle
    kept: Kept
    pair: Pair
    inception: Inception | None

    def of(self, pictures: Pixels, every: int = 1) -> Features:
        """Features of pictures uint8 (N, S, S, 3); Inception sees every ``every``-th of them."""
        own = kept_representations(self.bundle, self.kept, list(pictures), [self.pair])[self.pair]
        if self.inception is None:
            return Features(own, None, None)
        network, counted = self.inception, pictures[::every]
        key = {"step": "inception", "pictures": photos_hash(list(counted)), "weights": network.sha256}
        found = self.kept.once(key, lambda: network.features(counted))
        return Features(own, found["features"], found["logits"])

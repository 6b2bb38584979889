"""Feature spaces for the comparison of samples and images: the space of an encoder, and optionally of Inception."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from rcdm_cli.analyses.step_cache import StepCache, encode_pairs, images_hash
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import Distances, KernelInceptionDistance, distances, kid
from rcdm_cli.metrics.inception import Inception, InceptionScore, inception_score


@dataclass(frozen=True)
class InceptionResult:
    """Distances of samples to images in the Inception space, and the inception score of the samples."""

    distances: Distances
    kid: KernelInceptionDistance
    score: InceptionScore

    def as_json(self) -> dict[str, Any]:
        """Return JSON-able values under the names of the Inception space, such as ``fid``."""
        values = asdict(self.distances)
        named = {"fid": values.pop("frechet"), "kid": self.kid.mean}
        subsets = {"kid_subsets": self.kid.subsets, "kid_subset_size": self.kid.subset_size}
        return {**named, **subsets, **values, "inception_score": asdict(self.score)}


@dataclass(frozen=True)
class SampleFeatures:
    """Features of samples.

    Attributes:
        own: (N, D) in the space of the encoder.
        inception: (M, 2048) in the Inception space, for every k-th sample; None without Inception.
        logits: (M, 1008) of Inception.
    """

    own: Tensor
    inception: Tensor | None
    logits: Tensor | None

    def compare(self, images: "SampleFeatures") -> InceptionResult | None:
        """Compare with ``images`` in the Inception space; None without Inception."""
        if self.inception is None or self.logits is None or images.inception is None:
            return None
        both = self.inception, images.inception
        return InceptionResult(distances(*both), kid(*both), inception_score(self.logits))


@dataclass(frozen=True)
class FeatureSpace:
    """Feature space of an encoder at one level, and of Inception.

    Attributes:
        bundle: bundle with the encoder.
        cache: cache of the features.
        pair: (method, level) of the encoder.
        inception: Inception network; None computes no Inception features.
    """

    bundle: Bundle
    cache: StepCache
    pair: Pair
    inception: Inception | None

    def features(self, samples: Pixels, every: int = 1) -> SampleFeatures:
        """Compute the features of samples uint8 (N, S, S, 3); Inception receives every ``every``-th sample."""
        own = encode_pairs(self.bundle, list(samples), [self.pair], cache=self.cache)[self.pair]
        if self.inception is None:
            return SampleFeatures(own, None, None)
        network, subset = self.inception, samples[::every]
        key = {"step": "inception", "samples": images_hash(list(subset)), "weights": network.sha256}
        computed = self.cache.get_or_compute(key, lambda: network.features(subset))
        return SampleFeatures(own, computed["features"], computed["logits"])

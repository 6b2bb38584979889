"""Results of the invariance analysis: similarities under augmentations, and samples before and after."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rcdm_cli.data.augment import Augmentation
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import Interval


@dataclass(frozen=True)
class AugmentedSimilarity:
    """Similarity of representations before and after an augmentation, with 95 % intervals over images.

    Attributes:
        cosine: mean cosine similarity of ``h`` before and after.
        relative: the cosine similarity rescaled, so that 1 is an unchanged ``h`` and 0 the mean similarity of two
            different images; None if the encoder maps all images to the same representation.
    """

    cosine: Interval
    relative: Interval | None


@dataclass(frozen=True)
class BeforeAndAfter:
    """Samples of P images, and of the same images after each of A augmentations at its last strength.

    Attributes:
        labels: 1 + A row labels: the original, then augmentation and strength.
        images: uint8 (1 + A, P, size, size, 3), encoded images.
        samples: by pair, uint8 (1 + A, P, K, S, S, 3). All rows share the noise.
        seeds: (P, K).
    """

    labels: list[str]
    images: Pixels
    samples: dict[Pair, Pixels]
    seeds: list[list[int]]

    def change(self, pair: Pair) -> list[float]:
        """Return the mean absolute difference between the samples of each augmentation and of the original images.

        A values, as a fraction of the pixel range.
        """
        samples = self.samples[pair].astype(np.float32) / 255
        axes = tuple(range(1, samples.ndim))
        return [float(value) for value in np.abs(samples[1:] - samples[:1]).mean(axis=axes)]

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        return {
            "rows": self.labels,
            "seeds": self.seeds,
            "change": [{**pair._asdict(), "mean_absolute": self.change(pair)} for pair in self.samples],
        }


@dataclass(frozen=True)
class Invariance:
    """Similarity of representations before and after each augmentation.

    Attributes:
        count: number of images.
        size: height and width of the augmented images in pixels.
        augmentations: augmentations.
        others: by pair, mean cosine similarity between different images.
        by_strength: by pair, name of the augmentation and strength.
        by_augmentation: by pair and name of the augmentation, mean over the strengths.
        differences: by method with both levels and name of the augmentation: projector minus backbone of ``relative``,
            paired by image. Empty for fewer than 3 images.
        background: mean fraction of an image that was detected as background.
        samples: samples before and after; None if none were generated.
        unreadable: paths of images that were skipped.
    """

    count: int
    size: int
    augmentations: tuple[Augmentation, ...]
    others: dict[Pair, Interval]
    by_strength: dict[tuple[Pair, str, str], AugmentedSimilarity]
    by_augmentation: dict[tuple[Pair, str], AugmentedSimilarity]
    differences: dict[tuple[str, str], Interval]
    background: float
    samples: BeforeAndAfter | None = None
    unreadable: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        values: dict[str, Any] = {
            "images": self.count,
            "size": self.size,
            "background_share": self.background,
            "augmentations": [
                {"name": augmentation.name, "what": augmentation.description, "strengths": list(augmentation.strengths)}
                for augmentation in self.augmentations
            ],
            "representations": [
                {
                    **pair._asdict(),
                    "similarity_of_different_images": asdict(others),
                    "augmentations": [
                        {
                            "name": augmentation.name,
                            "mean": asdict(self.by_augmentation[pair, augmentation.name]),
                            "strengths": [
                                {"strength": strength, **asdict(self.by_strength[pair, augmentation.name, strength])}
                                for strength in augmentation.strengths
                            ],
                        }
                        for augmentation in self.augmentations
                    ],
                }
                for pair, others in self.others.items()
            ],
            "projector_minus_backbone": [
                {"method": method, "augmentation": name, **asdict(interval)}
                for (method, name), interval in self.differences.items()
            ],
        }
        return values | ({"samples": self.samples.as_json()} if self.samples else {})

"""Quality of samples of a faster denoiser compared with a reference, from the same noise: the gate of speed-ups."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.diffusion.sampling import Loop, sample_images
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import frechet_distance
from rcdm_cli.metrics.diversity import pixel_variance
from rcdm_cli.metrics.ranks import mean_reciprocal_rank, own_similarity, ranks

MAX_RANK_LOSS = 0.03
"""Largest accepted loss of mean reciprocal rank at the worst representation. With 100 images, a different rounding of
the same graph changes the rank by up to 0.02. Quantizing nearly every convolution to int8 lost 0.08 (200 images; both
measured on the demo bundle)."""

MAX_FRECHET_RATIO = 1.1
"""Largest accepted ratio of Fréchet distances between samples and images. Quantizing nearly every convolution to int8
gave 1.6 on the demo bundle."""

MAX_SPREAD_CHANGE = 0.05
"""Largest accepted relative change of the spread of samples. Samples with a smaller spread would show a representation
as more informative than it is."""


@dataclass(frozen=True)
class Quality:
    """Quality of samples at one (method, level).

    Attributes:
        mean_reciprocal_rank: mean reciprocal rank of the image's own representation among the representations of all
            images, by similarity to the sample's representation.
        similarity: mean cosine similarity between the representations of sample and image.
        frechet: Fréchet distance between the representations of samples and of images.
        spread: root of the mean variance of a pixel over the samples of an image, where the pixel range is 1; None for
            a single sample per image.
    """

    mean_reciprocal_rank: float
    similarity: float
    frechet: float
    spread: float | None = None


@dataclass(frozen=True)
class SampleComparison:
    """Quality of samples compared with the samples of a reference.

    Attributes:
        name: name of the compared samples, such as ``int8``.
        reference: name of the reference.
        images: number of images.
        qualities: quality of the reference and of the compared samples, from the same noise, by (method, level).
        psnr: peak signal-to-noise ratio against the samples of the reference, in decibels; None if the samples are
            identical.
        samples: number of samples per image and representation.
    """

    name: str
    reference: str
    images: int
    qualities: Mapping[Pair, tuple[Quality, Quality]] = field(default_factory=dict)
    psnr: float | None = None
    samples: int = 1

    @property
    def rank_loss(self) -> float:
        """Largest loss of mean reciprocal rank over the representations."""
        qualities = self.qualities.values()
        return float(
            np.max([full.mean_reciprocal_rank - compared.mean_reciprocal_rank for full, compared in qualities])
        )

    @property
    def frechet_ratio(self) -> float:
        """Largest ratio of Fréchet distances over the representations.

        The maximum is used, because an improvement at one representation does not compensate for a loss at another.
        """
        return float(np.max([compared.frechet / full.frechet for full, compared in self.qualities.values()]))

    @property
    def spread_change(self) -> float | None:
        """Relative change of the spread at the representation with the largest change; None for single samples."""
        changes = [
            compared.spread / full.spread - 1
            for full, compared in self.qualities.values()
            if full.spread is not None and compared.spread is not None
        ]
        return max(changes, key=abs) if changes else None

    @property
    def accepted(self) -> bool:
        """Whether all values are within their limits. NaN is not accepted."""
        spread = self.spread_change is None or abs(self.spread_change) <= MAX_SPREAD_CHANGE
        return self.rank_loss <= MAX_RANK_LOSS and self.frechet_ratio <= MAX_FRECHET_RATIO and spread

    @property
    def limits(self) -> str:
        """Sentence with the limits."""
        limits = [str(MAX_RANK_LOSS), str(MAX_FRECHET_RATIO)]
        if self.spread_change is not None:
            limits.append(f"{MAX_SPREAD_CHANGE:.0%}")
        return f"The limits are {', '.join(limits[:-1])} and {limits[-1]}."

    def __str__(self) -> str:
        change = self.spread_change
        spread = "" if change is None else f", and their spread changes by {change:+.1%}"
        joint = " and" if change is None else ""
        psnr = "They are identical." if self.psnr is None else f"Their PSNR is {self.psnr:.1f} dB."
        return (
            f"Over {self.images} images, samples at {self.name} lose {self.rank_loss:.3f} of mean reciprocal rank "
            f"against {self.reference},{joint} their Fréchet distance is {self.frechet_ratio:.2f} times as large"
            f"{spread}, at the worst representations. {psnr}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return all values and limits as JSON-compatible values."""
        return {
            "reference": self.reference,
            "images": self.images,
            "samples": self.samples,
            "mean_reciprocal_rank_loss": self.rank_loss,
            "frechet_ratio": self.frechet_ratio,
            "spread_change": self.spread_change,
            "psnr": self.psnr,
            "accepted": self.accepted,
            "bounds": {
                "mean_reciprocal_rank_loss": MAX_RANK_LOSS,
                "frechet_ratio": MAX_FRECHET_RATIO,
                "spread_change": MAX_SPREAD_CHANGE,
            },
            "representations": [
                {**pair._asdict(), "reference": asdict(full), "compared": asdict(compared)}
                for pair, (full, compared) in self.qualities.items()
            ],
        }


def compare_samples(
    bundle: Bundle,
    reference: tuple[str, Loop],
    compared: Mapping[str, Loop],
    images: Mapping[str, Pixels],
    *,
    num_samples: int = 1,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[str, SampleComparison]:
    """Generate samples of each image at every (method, level) with each loop, from the same noise, and compare them.

    Args:
        bundle: bundle, which encodes images and samples.
        reference: name and loop of the reference.
        compared: loops to compare with the reference, by name. All loops have the conditioning of ``bundle``.
        images: images by name, uint8 (H, W, 3) each, at least 2. The loops must not be calibrated on these images.
        num_samples: samples per image and representation. The spread of samples needs 2 or more.
        seed: seed of the noise.
        batch: samples generated at a time.
        on_progress: called with (finished samples, total samples, note).
    """
    pairs = bundle.pairs()
    pixels = list(images.values())
    h = {pair: bundle.encode(pixels, method=pair.method, level=pair.level) for pair in pairs}
    cond = torch.cat([bundle.condition(h[pair], method=pair.method, level=pair.level) for pair in pairs])
    cond = cond.repeat_interleave(num_samples, dim=0)
    seeds = [own for of_image in sample_seeds(seed, list(images), num_samples) for own in of_image] * len(pairs)
    total = (1 + len(compared)) * len(seeds)

    def sample(loop: Loop, part: int, name: str) -> Pixels:
        def report(done: int, _: int) -> None:
            on_progress(part * len(seeds) + done, total, f"samples at {name}")

        return sample_images(loop, cond, seeds, batch, report, bundle.on_note)

    def measure(samples: Pixels) -> list[Quality]:
        qualities = []
        for pair, part in zip(pairs, np.split(samples, len(pairs)), strict=True):
            sample_h = bundle.encode(list(part), method=pair.method, level=pair.level)
            qualities.append(sample_quality(part, sample_h, h[pair]))
        return qualities

    name, loop = reference
    full_samples = sample(loop, 0, name)
    full = measure(full_samples)
    comparisons = {}
    for part, (other, loop) in enumerate(compared.items(), 1):
        samples = sample(loop, part, other)
        qualities = dict(zip(pairs, zip(full, measure(samples), strict=True), strict=True))
        error = np.square(full_samples.astype(np.float64) - samples).mean()
        psnr = float(10 * np.log10(255**2 / error)) if error else None
        comparisons[other] = SampleComparison(other, name, len(images), qualities, psnr, num_samples)
    return comparisons


def sample_quality(samples: Pixels, sample_h: Tensor, image_h: Tensor) -> Quality:
    """Measure K samples per image, uint8 (N K, H, W, 3), from their representations and those of the images (N, D)."""
    num_samples = len(sample_h) // len(image_h)
    own = torch.arange(len(image_h)).repeat_interleave(num_samples)
    rank = ranks(sample_h, image_h, own)
    similarity = float(own_similarity(sample_h, image_h[own]).mean())
    spread = None
    if num_samples > 1:
        of_image = np.split(samples, len(image_h))
        spread = float(np.sqrt(np.mean([pixel_variance(group).mean() for group in of_image])))
    return Quality(mean_reciprocal_rank(rank), similarity, frechet_distance(sample_h, image_h), spread)

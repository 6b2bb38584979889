"""Quality of samples at reduced precision compared with full precision, from the same noise."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.backends.graph import Precision
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import CheckFailed
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import sample_images
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import frechet_distance
from rcdm_cli.metrics.ranks import mean_reciprocal_rank, own_similarity, ranks

MAX_RANK_LOSS = 0.03
"""Largest accepted loss of mean reciprocal rank at the worst representation. With 100 images, a different rounding of
the same graph changes the rank by up to 0.02. Quantizing nearly every convolution to int8 lost 0.08 (200 images; both
measured on the demo bundle)."""

MAX_FRECHET_RATIO = 1.1
"""Largest accepted ratio of Fréchet distances between samples and images. Quantizing nearly every convolution to int8
gave 1.6 on the demo bundle."""


@dataclass(frozen=True)
class Quality:
    """Quality of one sample per image, at one (method, level).

    Attributes:
        mean_reciprocal_rank: mean reciprocal rank of the image's own representation among the representations of all
            images, by similarity to the sample's representation.
        similarity: mean cosine similarity between the representations of sample and image.
        frechet: Fréchet distance between the representations of samples and of images.
    """

    mean_reciprocal_rank: float
    similarity: float
    frechet: float


@dataclass(frozen=True)
class PrecisionComparison:
    """Quality of samples at a reduced precision compared with fp32.

    Attributes:
        precision: the reduced precision.
        images: number of images, with one sample each.
        qualities: quality at fp32 and at the reduced precision, from the same noise, by (method, level).
        psnr: peak signal-to-noise ratio against the samples at fp32, in decibels; None if the samples are identical.
    """

    precision: Precision
    images: int
    qualities: dict[Pair, tuple[Quality, Quality]]
    psnr: float | None

    @property
    def rank_loss(self) -> float:
        """Largest loss of mean reciprocal rank over the representations."""
        qualities = self.qualities.values()
        return float(np.max([full.mean_reciprocal_rank - reduced.mean_reciprocal_rank for full, reduced in qualities]))

    @property
    def frechet_ratio(self) -> float:
        """Largest ratio of Fréchet distances over the representations.

        The maximum is used, because an improvement at one representation does not compensate for a loss at another.
        """
        return float(np.max([reduced.frechet / full.frechet for full, reduced in self.qualities.values()]))

    @property
    def accepted(self) -> bool:
        """Whether both values are within their limits. NaN is not accepted."""
        return self.rank_loss <= MAX_RANK_LOSS and self.frechet_ratio <= MAX_FRECHET_RATIO

    def __str__(self) -> str:
        return (
            f"Over {self.images} images, samples at {self.precision} lose {self.rank_loss:.3f} of mean reciprocal rank "
            f"against fp32, and their Fréchet distance is {self.frechet_ratio:.2f} times as large, at the worst "
            "representations."
        )

    def as_json(self) -> dict[str, Any]:
        """Return all values and limits as JSON-compatible values."""
        return {
            "images": self.images,
            "mean_reciprocal_rank_loss": self.rank_loss,
            "frechet_ratio": self.frechet_ratio,
            "psnr": self.psnr,
            "bounds": {"mean_reciprocal_rank_loss": MAX_RANK_LOSS, "frechet_ratio": MAX_FRECHET_RATIO},
            "representations": [
                {**pair._asdict(), "fp32": asdict(full), "reduced": asdict(reduced)}
                for pair, (full, reduced) in self.qualities.items()
            ],
        }


def check_quality(comparisons: Collection[PrecisionComparison]) -> None:
    """Check all comparisons against the limits.

    Raises:
        CheckFailed: A comparison exceeds a limit.
    """
    rejected = [comparison for comparison in comparisons if not comparison.accepted]
    if not rejected:
        return
    verdicts = " ".join(f"{comparison.precision} is rejected: {comparison}" for comparison in rejected)
    accepted = [comparison.precision for comparison in comparisons if comparison.accepted]
    hint = f" With `precision` {','.join(accepted)}, the export succeeds." if accepted else ""
    raise CheckFailed(
        f"{verdicts} The limits are {MAX_RANK_LOSS} and {MAX_FRECHET_RATIO}. No 8-bit graph was installed.{hint}"
    )


def compare_precisions(
    bundle: Bundle,
    engines: Mapping[Precision, Engine],
    images: Mapping[str, Pixels],
    *,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[Precision, PrecisionComparison]:
    """Generate one sample per image at every (method, level), at fp32 and with each engine, and compare the quality.

    Args:
        bundle: bundle at fp32.
        engines: engines of the denoiser at reduced precisions.
        images: images by name, uint8 (H, W, 3) each, at least 2. They must differ from the calibration images.
        seed: seed of the noise.
        batch: samples generated at a time.
        on_progress: called with (finished samples, total samples, note).
    """
    pairs = bundle.pairs()
    pixels = list(images.values())
    h = {pair: bundle.encode(pixels, method=pair.method, level=pair.level) for pair in pairs}
    cond = torch.cat([bundle.condition(h[pair], method=pair.method, level=pair.level) for pair in pairs])
    seeds = [sample_seed(seed, name, 0) for name in images] * len(pairs)
    total = (1 + len(engines)) * len(seeds)

    def sample(engine: Engine, part: int, precision: str) -> Pixels:
        def report(done: int, _: int) -> None:
            on_progress(part * len(seeds) + done, total, f"samples at {precision}")

        return sample_images(bundle.loop(bundle.settings(), engine), cond, seeds, batch, report, bundle.on_note)

    def measure(samples: Pixels) -> list[Quality]:
        parts = zip(pairs, np.split(samples, len(pairs)), strict=True)
        return [
            sample_quality(bundle.encode(list(part), method=pair.method, level=pair.level), h[pair])
            for pair, part in parts
        ]

    full_samples = sample(bundle.engine, 0, "fp32")
    full = measure(full_samples)
    comparisons: dict[Precision, PrecisionComparison] = {}
    for part, (precision, engine) in enumerate(engines.items(), 1):
        samples = sample(engine, part, precision)
        qualities = dict(zip(pairs, zip(full, measure(samples), strict=True), strict=True))
        error = np.square(full_samples.astype(np.float64) - samples).mean()
        psnr = float(10 * np.log10(255**2 / error)) if error else None
        comparisons[precision] = PrecisionComparison(precision, len(images), qualities, psnr)
    return comparisons


def sample_quality(sample_h: Tensor, image_h: Tensor) -> Quality:
    """Compare the representations of samples (N, D), one per image, with the representations of the images (N, D)."""
    rank = ranks(sample_h, image_h, torch.arange(len(image_h)))
    similarity = float(own_similarity(sample_h, image_h).mean())
    return Quality(mean_reciprocal_rank(rank), similarity, frechet_distance(sample_h, image_h))

"""Is a denoiser at reduced precision as good as at full precision? Samples of both, from the same noise."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.backends.engine_file import EightBit
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import CheckFailed
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Loop, sample_images
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.distances import frechet_distance
from rcdm_cli.metrics.ranks import mean_reciprocal_rank, own_similarity, ranks

Pixels = NDArray[np.uint8]

NUM_IMAGES = 100
"""To judge with, one sample each at every representation."""

MIN_IMAGES = 50
"""With fewer, chance decides."""

MOST_LOST = 0.03
"""Mean reciprocal rank that the representation that suffers most may lose. With 100 images, other rounding of the same
graph changes one by up to 0.02; nearly every convolution in int8 lost 0.08 (200 images; both on the demo bundle)."""

MOST_FARTHER = 1.1
"""Times that its samples may be as far from the images (Fréchet distance). Nearly every convolution in int8 made it
1.6 on the demo bundle."""


@dataclass(frozen=True)
class Quality:
    """Of one sample for each image, at one (method, level).

    Attributes:
        mean_reciprocal_rank: of the image's own representation among those of all images, by nearness to its sample's.
        similarity: mean cosine similarity of the sample's representation to the image's.
        frechet: distance between the representations of the samples and those of the images.
    """

    mean_reciprocal_rank: float
    similarity: float
    frechet: float


@dataclass(frozen=True)
class Compared:
    """At one (method, level): samples at full precision, and those from the same noise at reduced precision."""

    pair: Pair
    full: Quality
    reduced: Quality


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        precision: the reduced one.
        images: how many, with one sample each.
        compared: one for each (method, level) of the bundle.
        psnr: of samples at reduced precision against those at full, in decibels; None where they are the same.
    """

    precision: EightBit
    images: int
    compared: tuple[Compared, ...]
    psnr: float | None

    @property
    def lost(self) -> float:
        """Mean reciprocal rank that reduced precision loses, at the pair that loses most."""
        losses = [one.full.mean_reciprocal_rank - one.reduced.mean_reciprocal_rank for one in self.compared]
        return float(np.max(losses))

    @property
    def farther(self) -> float:
        """Fréchet distance at reduced precision over that at full, at the pair where that is largest.

        One pair may not make up for another: samples that are nearer to images than at full precision are as wrong.
        """
        return float(np.max([one.reduced.frechet / one.full.frechet for one in self.compared]))

    @property
    def accepted(self) -> bool:
        """Whether both are within their bounds; what is not a number is not."""
        return self.lost <= MOST_LOST and self.farther <= MOST_FARTHER

    def __str__(self) -> str:
        """A sentence for people."""
        return (
            f"Over {self.images} images, samples at {self.precision} lose {self.lost:.3f} of mean reciprocal rank "
            f"against fp32, and their Fréchet distance is {self.farther:.2f} times as large, at the representations "
            "that suffer most."
        )

    def as_json(self) -> dict[str, Any]:
        """Every number, with the bounds."""
        return {
            "images": self.images,
            "mean_reciprocal_rank_lost": self.lost,
            "frechet_ratio": self.farther,
            "psnr": self.psnr,
            "bounds": {"mean_reciprocal_rank_lost": MOST_LOST, "frechet_ratio": MOST_FARTHER},
            "representations": [
                {**one.pair._asdict(), "fp32": asdict(one.full), "reduced": asdict(one.reduced)}
                for one in self.compared
            ],
        }


def hold(comparisons: Collection[Comparison]) -> None:
    """Hold all of them against the bounds.

    Raises:
        CheckFailed: one is beyond a bound.
    """
    refused = [one for one in comparisons if not one.accepted]
    if not refused:
        return
    verdicts = " ".join(f"{one.precision} is not accepted: {one}" for one in refused)
    others = [one.precision for one in comparisons if one.accepted]
    hint = f" {' and '.join(others)} would be accepted: give --precision {','.join(others)} alone." if others else ""
    raise CheckFailed(
        f"{verdicts} At most {MOST_LOST} may be lost, and the distance may be at most {MOST_FARTHER} times as large. "
        f"The bundle is as it was.{hint}"
    )


def compare(
    bundle: Bundle,
    engines: Mapping[EightBit, Engine],
    images: Sequence[Pixels],
    *,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[EightBit, Comparison]:
    """Sample a sample of every image at every (method, level) of the bundle, with each, in the bundle's own way.

    Args:
        bundle: at full precision.
        engines: its denoiser at reduced precisions.
        images: uint8 (H, W, 3) each, at least 2; not those that they were calibrated with.
        seed: start of all randomness.
        batch: samples made at a time.
        on_progress: called with (samples done, samples, what runs).
    """
    pairs = [Pair(projection.method, projection.level) for projection in bundle.manifest.conditioning.projections]
    known = {pair: bundle.encode(images, method=pair.method, level=pair.level) for pair in pairs}
    cond = torch.cat([bundle.condition(known[pair], method=pair.method, level=pair.level) for pair in pairs])
    seeds = [sample_seed(seed, image, 0) for image in range(len(images))] * len(pairs)

    def sampled(runs: Engine, part: int, precision: str) -> Pixels:
        loop = Loop(runs, bundle.outside.denoiser, bundle.schedule, bundle.settings(), bundle.device)
        before, total = part * len(seeds), (1 + len(engines)) * len(seeds)
        note = f"samples at {precision}"
        return sample_images(
            loop, cond, seeds, batch, lambda done, _: on_progress(before + done, total, note), bundle.on_note
        )

    def qualities(samples: Pixels) -> list[Quality]:
        parts = zip(pairs, np.split(samples, len(pairs)), strict=True)
        return [
            quality(bundle.encode(list(made), method=pair.method, level=pair.level), known[pair])
            for pair, made in parts
        ]

    full = sampled(bundle.engine, 0, "fp32")
    exact = qualities(full)
    found: dict[EightBit, Comparison] = {}
    for part, (precision, engine) in enumerate(engines.items(), 1):
        reduced = sampled(engine, part, precision)
        compared = tuple(Compared(*one) for one in zip(pairs, exact, qualities(reduced), strict=True))
        error = np.square(full.astype(np.float64) - reduced).mean()
        psnr = float(10 * np.log10(255**2 / error)) if error else None
        found[precision] = Comparison(precision, len(images), compared, psnr)
    return found


def quality(found: Tensor, h: Tensor) -> Quality:
    """Measure representations of samples (N, D), one for each image, against those of the images (N, D)."""
    rank = ranks(found, h, torch.arange(len(h)))
    similarity = float(own_similarity(found, h).mean())
    return Quality(mean_reciprocal_rank(rank), similarity, frechet_distance(found, h))

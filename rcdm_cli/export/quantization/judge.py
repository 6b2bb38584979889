"""Is a denoiser at reduced precision as good as at full precision? Pictures of both, from the same noise."""

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
from rcdm_cli.diffusion.noise import picture_seed
from rcdm_cli.diffusion.sampling import Loop, sample_pictures
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.frechet import frechet_distance
from rcdm_cli.metrics.ranks import mean_reciprocal_rank, own_similarity, ranks

Pixels = NDArray[np.uint8]

PHOTOS = 100
"""To judge with, one picture each at every representation."""

LEAST_PHOTOS = 50
"""With fewer, chance decides."""

MOST_LOST = 0.03
"""Mean reciprocal rank that the representation that suffers most may lose. With 100 photos, other rounding of the same
graph changes one by up to 0.02; nearly every convolution in int8 lost 0.08 (200 photos; both on the demo bundle)."""

MOST_FARTHER = 1.1
"""Times that its pictures may be as far from the photos (Fréchet distance). Nearly every convolution in int8 made it
1.6 on the demo bundle."""


@dataclass(frozen=True)
class Quality:
    """Of one picture for each photo, at one (method, level).

    Attributes:
        mean_reciprocal_rank: of the photo's own representation among those of all photos, by nearness to its picture's.
        similarity: mean cosine similarity of the picture's representation to the photo's.
        frechet: distance between the representations of the pictures and those of the photos.
    """

    mean_reciprocal_rank: float
    similarity: float
    frechet: float


@dataclass(frozen=True)
class Compared:
    """At one (method, level): pictures at full precision, and those from the same noise at reduced precision."""

    pair: Pair
    full: Quality
    reduced: Quality


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        precision: the reduced one.
        photos: how many, with one picture each.
        compared: one for each (method, level) of the bundle.
        psnr: of pictures at reduced precision against those at full, in decibels; None where they are the same.
    """

    precision: EightBit
    photos: int
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

        One pair may not make up for another: pictures that are nearer to photos than at full precision are as wrong.
        """
        return float(np.max([one.reduced.frechet / one.full.frechet for one in self.compared]))

    @property
    def accepted(self) -> bool:
        """Whether both are within their bounds; what is not a number is not."""
        return self.lost <= MOST_LOST and self.farther <= MOST_FARTHER

    def __str__(self) -> str:
        """A sentence for people."""
        return (
            f"Over {self.photos} photos, pictures at {self.precision} lose {self.lost:.3f} of mean reciprocal rank "
            f"against fp32, and their Fréchet distance is {self.farther:.2f} times as large, at the representations "
            "that suffer most."
        )

    def as_json(self) -> dict[str, Any]:
        """Every number, with the bounds."""
        return {
            "photos": self.photos,
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
    photos: Sequence[Pixels],
    *,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[EightBit, Comparison]:
    """Sample a picture of every photo at every (method, level) of the bundle, with each, in the bundle's own way.

    Args:
        bundle: at full precision.
        engines: its denoiser at reduced precisions.
        photos: uint8 (H, W, 3) each, at least 2; not those that they were calibrated with.
        seed: start of all randomness.
        batch: pictures made at a time.
        on_progress: called with (pictures done, pictures, what runs).
    """
    pairs = [Pair(row.method, row.level) for row in bundle.manifest.conditioner.rows]
    known = {pair: bundle.encode(photos, method=pair.method, level=pair.level) for pair in pairs}
    cond = torch.cat([bundle.condition(known[pair], method=pair.method, level=pair.level) for pair in pairs])
    seeds = [picture_seed(seed, photo, 0) for photo in range(len(photos))] * len(pairs)

    def sampled(runs: Engine, part: int, precision: str) -> Pixels:
        loop = Loop(runs, bundle.outside.denoiser, bundle.schedule, bundle.settings(), bundle.device)
        before, total = part * len(seeds), (1 + len(engines)) * len(seeds)
        note = f"pictures at {precision}"
        return sample_pictures(
            loop, cond, seeds, batch, lambda done, _: on_progress(before + done, total, note), bundle.on_note
        )

    def qualities(pictures: Pixels) -> list[Quality]:
        parts = zip(pairs, np.split(pictures, len(pairs)), strict=True)
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
        found[precision] = Comparison(precision, len(photos), compared, psnr)
    return found


def quality(found: Tensor, h: Tensor) -> Quality:
    """Measure representations of pictures (N, D), one for each photo, against those of the photos (N, D)."""
    rank = ranks(found, h, torch.arange(len(h)))
    similarity = float(own_similarity(found, h).mean())
    return Quality(mean_reciprocal_rank(rank), similarity, frechet_distance(found, h))

"""What a representation does not notice: its similarity before and after a battery of augmentations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.step_cache import StepCache, cached_representations, images_hash, representations
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.augment import AUGMENTATIONS, Augmentation, background
from rcdm_cli.data.crop import center_crop
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import Bootstrap, Interval, percentile_interval

Pixels = NDArray[np.uint8]

COLLAPSED = 1e-6
"""If different images are as similar as 1 minus this, an encoder tells nothing apart: what it keeps is undefined."""

COMPARABLE = 3
"""Images that a difference needs at least: all resamples of two different ones are these two."""


@dataclass(frozen=True)
class Remaining:
    """How much similarity remains, with 95 % intervals over images.

    Attributes:
        cosine: mean cosine similarity of ``h`` before and after.
        relative: the same on the scale where 1 is the same ``h`` and 0 is what two different images have in common on
            average; None where the encoder tells no images apart.
    """

    cosine: Interval
    relative: Interval | None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {"cosine": self.cosine.as_json(), "relative": self.relative and self.relative.as_json()}


@dataclass(frozen=True)
class Invariance:
    """Similarity before and after each augmentation.

    Attributes:
        count: of images.
        size: pixels along each side of the images as augmented.
        augmentations: the battery.
        others: by pair, mean cosine similarity between different images.
        by_strength: by pair, augmentation's name and strength.
        by_augmentation: by pair and augmentation's name, the mean over its strengths.
        differences: by method with both levels and augmentation's name: projector minus backbone of ``relative``,
            paired by image; none below ``COMPARABLE`` images.
        background: mean share of an image that was found to be its background.
    """

    count: int
    size: int
    augmentations: tuple[Augmentation, ...]
    others: dict[Pair, Interval]
    by_strength: dict[tuple[Pair, str, str], Remaining]
    by_augmentation: dict[tuple[Pair, str], Remaining]
    differences: dict[tuple[str, str], Interval]
    background: float

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "images": self.count,
            "size": self.size,
            "background_share": self.background,
            "augmentations": [
                {"name": one.name, "what": one.description, "strengths": list(one.strengths)}
                for one in self.augmentations
            ],
            "representations": [
                {
                    "method": pair.method,
                    "level": pair.level,
                    "similarity_of_others": others.as_json(),
                    "augmentations": [
                        {
                            "name": one.name,
                            "mean": self.by_augmentation[pair, one.name].as_json(),
                            "strengths": [
                                {"strength": strength, **self.by_strength[pair, one.name, strength].as_json()}
                                for strength in one.strengths
                            ],
                        }
                        for one in self.augmentations
                    ],
                }
                for pair, others in self.others.items()
            ],
            "projector_minus_backbone": [
                {"method": method, "augmentation": name, **interval.as_json()}
                for (method, name), interval in self.differences.items()
            ],
        }


def image_size(bundle: Bundle, pairs: Sequence[Pair]) -> int:
    """Pixels along each side at which images are augmented: what the encoder with the largest images sees."""
    return max(bundle.encoder(pair.method).spec.preprocessing.size for pair in pairs)


def changed(images: Sequence[Pixels], augmentation: Augmentation, strength: str, seed: int) -> list[Pixels]:
    """The images after one augmentation; image ``i`` has the same noise at every strength."""
    change = augmentation.strengths[strength]
    return [change(image, np.random.default_rng([seed, i])) for i, image in enumerate(images)]


def invariance(
    bundle: Bundle,
    cache: StepCache,
    images: Sequence[Pixels],
    pairs: Sequence[Pair],
    *,
    augmentations: Sequence[Augmentation] = AUGMENTATIONS,
    seed: int = 0,
    batch: int = 256,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Invariance:
    """Compare the representations of images before and after each augmentation.

    Args:
        bundle: encoders.
        cache: where expensive parts lie.
        images: uint8 (H, W, 3) each, two or more; they are centre-cropped and then augmented.
        pairs: (method, level) to look at.
        augmentations: the battery.
        seed: of the noise and of the bootstrap.
        batch: images encoded at a time.
        on_progress: called with (steps done, steps), one step a strength.

    Raises:
        InputError: fewer than two images, which leave nothing to compare with.
    """
    if len(images) < 2:
        raise InputError("Invariance is measured against how alike different images are: give two images or more.")
    size = image_size(bundle, pairs)
    crops = [center_crop(image, size) for image in images]
    before = cached_representations(bundle, cache, crops, pairs, batch)
    crops_are = images_hash(crops)

    steps = [(one, strength) for one in augmentations for strength in one.strengths]
    cosine: dict[tuple[Pair, str, str], Tensor] = {}
    for done, (one, strength) in enumerate(steps):
        on_progress(done, len(steps))

        def compare(one: Augmentation = one, strength: str = strength) -> dict[str, Tensor]:
            return _similarities(bundle, changed(crops, one, strength, seed), before, batch)

        key = {"step": "invariance", "images": crops_are, "pairs": pairs, "augmentation": one.name, "seed": seed}
        found = cache.get_or_compute({**key, "strength": strength}, compare)
        for pair in pairs:
            cosine[pair, one.name, strength] = found[f"{pair.method}/{pair.level}"]
    on_progress(len(steps), len(steps))
    covered = float(np.mean([background(crop).mean() for crop in crops]))
    return _summarised(cosine, before, tuple(augmentations), Bootstrap(len(images), seed), size, covered)


def _similarities(
    bundle: Bundle, images: Sequence[Pixels], before: Mapping[Pair, Tensor], batch: int
) -> dict[str, Tensor]:
    after = representations(bundle, images, list(before), batch)
    return {
        f"{pair.method}/{pair.level}": F.cosine_similarity(after[pair].double(), h.double(), dim=1)
        for pair, h in before.items()
    }


def similarity_of_others(h: Tensor, counts: Tensor) -> Tensor:
    """Mean cosine similarity between different images, in each resample.

    Args:
        h: (N, D).
        counts: (R, N), how often each image is in each resample; two or more different ones.

    Returns:
        float64 (R,). An image that was drawn twice is not compared with itself.
    """
    # All pairs together are the squared length of the sum: no N × N matrix is needed.
    together = (counts @ F.normalize(h.double(), dim=1)).square().sum(dim=1)
    own = counts.square().sum(dim=1)
    return (together - own) / (counts.sum(dim=1).square() - own)


def _summarised(
    cosine: Mapping[tuple[Pair, str, str], Tensor],
    before: Mapping[Pair, Tensor],
    augmentations: tuple[Augmentation, ...],
    bootstrap: Bootstrap,
    size: int,
    covered: float,
) -> Invariance:
    count = bootstrap.counts.shape[1]
    # A resample of one image alone has no two different images.
    usable = bootstrap.counts[bootstrap.counts.amax(dim=1) < count]
    counts = torch.cat([torch.ones(1, count, dtype=torch.float64), usable])
    others = {pair: similarity_of_others(h, counts) for pair, h in before.items()}
    draws: dict[tuple[Pair, str, str], Tensor] = {key: counts @ values / count for key, values in cosine.items()}
    by_strength = {key: _remaining(values, others[key[0]]) for key, values in draws.items()}

    averaged = {
        (pair, one.name): torch.stack([draws[pair, one.name, strength] for strength in one.strengths]).mean(dim=0)
        for pair in before
        for one in augmentations
    }
    by_augmentation = {key: _remaining(values, others[key[0]]) for key, values in averaged.items()}

    differences = {}
    for pair in before:
        backbone = Pair(pair.method, "backbone")
        if pair.level == "projector" and backbone in before and count >= COMPARABLE:
            for one in augmentations:
                ends = [_relative(averaged[p, one.name], others[p]) for p in (pair, backbone)]
                if ends[0] is not None and ends[1] is not None:
                    differences[pair.method, one.name] = _of_known(ends[0] - ends[1])
    return Invariance(
        count,
        size,
        augmentations,
        {pair: percentile_interval(values) for pair, values in others.items()},
        by_strength,
        by_augmentation,
        differences,
        covered,
    )


def _relative(cosine: Tensor, others: Tensor) -> Tensor | None:
    """On the scale from 0, like another image, to 1, identical; both (1 + draws,).

    None where the images themselves are not told apart, and NaN in a resample that holds copies of one alone.
    """
    collapsed = others > 1 - COLLAPSED
    return None if collapsed[0] else ((cosine - others) / (1 - others)).masked_fill(collapsed, torch.nan)


def _of_known(draws: Tensor) -> Interval:
    return percentile_interval(draws[~draws.isnan()])


def _remaining(cosine: Tensor, others: Tensor) -> Remaining:
    relative = _relative(cosine, others)
    return Remaining(percentile_interval(cosine), None if relative is None else _of_known(relative))

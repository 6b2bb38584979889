"""Measure the similarity of representations before and after a set of augmentations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.inputs import ImageInput, read_images
from rcdm_cli.analyses.invariance.results import AugmentedSimilarity, BeforeAndAfter, Invariance
from rcdm_cli.analyses.invariance.section import write
from rcdm_cli.analyses.run import AnalysisArguments, SamplingRun, open_sampling_run, require_at_least
from rcdm_cli.analyses.step_cache import encode_pairs, images_hash
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.seeds import derive_seed
from rcdm_cli.data.augment import AUGMENTATIONS, Augmentation, background
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import Bootstrap, Interval, percentile_interval

COLLAPSED = 1e-6
"""If the mean similarity of different images exceeds 1 - COLLAPSED, the relative similarity is undefined."""

COMPARABLE = 3
"""Minimum number of images for a difference. With two images, all usable resamples are equal."""


def invariance(
    bundle: Bundle | str | Path,
    images: ImageInput,
    *,
    augmentations: Sequence[Augmentation] = AUGMENTATIONS,
    examples: int = 1,
    num_samples: int = 3,
    **options: Unpack[AnalysisArguments],
) -> Invariance:
    """Compare the representations of images before and after each augmentation.

    Args:
        bundle: bundle, or its name or folder.
        images: paths of images and folders, or uint8 arrays (H, W, 3); two images or more. Images are centre-cropped
            before the augmentation.
        augmentations: augmentations with their strengths.
        examples: number of images, from the first, that are sampled before and after; 0 generates no samples.
        num_samples: samples per representation, K.
        **options: see ``AnalysisArguments``.

    Raises:
        InputError: a parameter is out of range, or fewer than two images are readable.
    """
    require_at_least(1, num_samples=num_samples)
    require_at_least(0, examples=examples)
    with open_sampling_run(bundle, **options) as run:
        read = read_images(images, on_note=run.on_note)
        if len(read.pixels) < 2:
            raise InputError(
                "Invariance is measured relative to the similarity of different images. Give at least two images."
            )
        size = image_size(run.bundle, run.pairs)
        crops = [center_crop(image, size) for image in read.pixels]
        with run.cache.divided():
            result = _compare(run, crops, read.names, augmentations)
            result = replace(result, unreadable=tuple(read.unreadable))
        if examples:
            with run.cache.divided():
                samples = before_and_after(run, crops[:examples], read.names[:examples], augmentations, num_samples)
                result = replace(result, samples=samples)
        run.cache.require_all()
        if run.out:
            about = {**run.provenance(), "paths": read.paths, "unreadable": read.unreadable}
            write(result, run.out, about)
    return result


def image_size(bundle: Bundle, pairs: Sequence[Pair]) -> int:
    """Return the height and width at which images are augmented: the largest input size of the encoders."""
    return max(bundle.manifest.encoders[pair.method].spec.preprocessing.size for pair in pairs)


def augment_all(
    images: Sequence[Pixels], names: Sequence[str], augmentation: Augmentation, strength: str, seed: int
) -> list[Pixels]:
    """Apply one augmentation to all images. The noise of an image depends on its name and is equal at all strengths."""
    change = augmentation.strengths[strength]
    return [
        change(image, np.random.default_rng(derive_seed("augmentation", seed, name)))
        for image, name in zip(images, names, strict=True)
    ]


def _compare(
    run: SamplingRun, crops: Sequence[Pixels], names: Sequence[str], augmentations: Sequence[Augmentation]
) -> Invariance:
    """Compute the similarities at every strength, one cached step per strength."""
    before = run.encode(crops)
    hashed = images_hash(crops)
    steps = [(augmentation, strength) for augmentation in augmentations for strength in augmentation.strengths]
    cosine: dict[tuple[Pair, str, str], Tensor] = {}
    for done, (augmentation, strength) in enumerate(steps):
        run.on_progress("Augmenting", done, len(steps))

        def compare(augmentation: Augmentation = augmentation, strength: str = strength) -> dict[str, Tensor]:
            augmented = augment_all(crops, names, augmentation, strength, run.seed)
            after = encode_pairs(run.bundle, augmented, run.pairs, batch=run.batch)
            return {
                f"{pair.method}/{pair.level}": F.cosine_similarity(after[pair].double(), h.double(), dim=1)
                for pair, h in before.items()
            }

        key = {"step": "invariance", "images": hashed, "names": list(names), "pairs": run.pairs, "seed": run.seed}
        similarities = run.cache.compute_divided(
            {**key, "augmentation": augmentation.name, "strength": strength}, compare
        )
        if similarities is None:
            continue
        for pair in run.pairs:
            cosine[pair, augmentation.name, strength] = similarities[f"{pair.method}/{pair.level}"]
    run.on_progress("Augmenting", len(steps), len(steps))
    run.cache.require_all()
    covered = float(np.mean([background(crop).mean() for crop in crops]))
    return _summarise(cosine, before, tuple(augmentations), Bootstrap(len(crops), run.seed), crops[0].shape[0], covered)


def similarity_of_others(h: Tensor, counts: Tensor) -> Tensor:
    """Return the mean cosine similarity between different images in each resample.

    Args:
        h: (N, D).
        counts: (R, N), multiplicity of each image in each resample; at least two different images per resample.

    Returns:
        float64 (R,). Copies of an image are not compared with each other.
    """
    # The squared norm of the sum contains all pairs, so that no N × N matrix is needed.
    together = (counts @ F.normalize(h.double(), dim=1)).square().sum(dim=1)
    own = counts.square().sum(dim=1)
    return (together - own) / (counts.sum(dim=1).square() - own)


def _summarise(
    cosine: Mapping[tuple[Pair, str, str], Tensor],
    before: Mapping[Pair, Tensor],
    augmentations: tuple[Augmentation, ...],
    bootstrap: Bootstrap,
    size: int,
    background_share: float,
) -> Invariance:
    count = bootstrap.count
    others_by_block: list[dict[Pair, Tensor]] = []
    draws_by_block: list[dict[tuple[Pair, str, str], Tensor]] = []
    for counts in chain([torch.ones(1, count, dtype=torch.float64)], bootstrap.blocks()):
        # A resample of copies of one image contains no two different images.
        usable = counts[counts.amax(dim=1) < count]
        others_by_block.append({pair: similarity_of_others(h, usable) for pair, h in before.items()})
        draws_by_block.append({key: usable @ values / count for key, values in cosine.items()})
    others = {pair: torch.cat([block[pair] for block in others_by_block]) for pair in before}
    draws = {key: torch.cat([block[key] for block in draws_by_block]) for key in cosine}
    by_strength = {key: _estimate(values, others[key[0]]) for key, values in draws.items()}

    averaged = {
        (pair, augmentation.name): torch.stack(
            [draws[pair, augmentation.name, strength] for strength in augmentation.strengths]
        ).mean(dim=0)
        for pair in before
        for augmentation in augmentations
    }
    by_augmentation = {key: _estimate(values, others[key[0]]) for key, values in averaged.items()}

    differences = {}
    for pair in before:
        backbone = Pair(pair.method, "backbone")
        if pair.level == "projector" and backbone in before and count >= COMPARABLE:
            for augmentation in augmentations:
                ends = [_relative(averaged[p, augmentation.name], others[p]) for p in (pair, backbone)]
                if ends[0] is not None and ends[1] is not None:
                    differences[pair.method, augmentation.name] = _interval_without_nan(ends[0] - ends[1])
    return Invariance(
        count=count,
        size=size,
        augmentations=augmentations,
        others={pair: percentile_interval(values) for pair, values in others.items()},
        by_strength=by_strength,
        by_augmentation=by_augmentation,
        differences=differences,
        background=background_share,
    )


def _relative(cosine: Tensor, others: Tensor) -> Tensor | None:
    """Rescale similarities (1 + R,), so that 0 is the similarity of different images and 1 is identity.

    Returns None if all images have the same representation, and NaN for each resample in which all images have the same
    representation.
    """
    collapsed = others > 1 - COLLAPSED
    return None if collapsed[0] else ((cosine - others) / (1 - others)).masked_fill(collapsed, torch.nan)


def _interval_without_nan(draws: Tensor) -> Interval:
    return percentile_interval(draws[~draws.isnan()])


def _estimate(cosine: Tensor, others: Tensor) -> AugmentedSimilarity:
    relative = _relative(cosine, others)
    return AugmentedSimilarity(
        percentile_interval(cosine), None if relative is None else _interval_without_nan(relative)
    )


def before_and_after(
    run: SamplingRun,
    crops: Sequence[Pixels],
    names: Sequence[str],
    augmentations: Sequence[Augmentation],
    num_samples: int,
) -> BeforeAndAfter:
    """Sample every image before and after every augmentation at its last strength, from the same noise."""
    last = [(augmentation, list(augmentation.strengths)[-1]) for augmentation in augmentations]
    rows = [
        list(crops),
        *(augment_all(crops, names, augmentation, strength, run.seed) for augmentation, strength in last),
    ]
    labels = ["original", *(f"{augmentation.name}\n{strength}" for augmentation, strength in last)]
    seeds = sample_seeds(run.seed, names, num_samples)
    flat = run.sample(run.encode([image for row in rows for image in row]), seeds * len(rows))
    samples = {pair: own.reshape(len(rows), len(crops), *own.shape[1:]) for pair, own in flat.items()}
    return BeforeAndAfter(labels, np.stack([np.stack(row) for row in rows]), samples, seeds)

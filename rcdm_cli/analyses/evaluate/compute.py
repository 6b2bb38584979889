"""Measure a bundle's samples: faithfulness to ``h``, diversity at fixed ``h``, distance to images, memorisation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.evaluate.features import FeatureSpace
from rcdm_cli.analyses.evaluate.results import EvaluatedRepresentation, Evaluation, NearestTrainingImage
from rcdm_cli.analyses.evaluate.section import write
from rcdm_cli.analyses.inputs import ImageInput, data_name, load_crops, open_images
from rcdm_cli.analyses.left_out import left_out, left_out_sentence
from rcdm_cli.analyses.run import (
    OnNote,
    OnProgress,
    as_bundle,
    chosen_pairs,
    no_note,
    no_progress,
    provenance,
    require_at_least,
    run_cache,
)
from rcdm_cli.analyses.step_cache import StepCache, encode_pairs, sample_batches
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import LEVELS
from rcdm_cli.data.crop import center_crop
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.directions import directions
from rcdm_cli.metrics.distances import distances
from rcdm_cli.metrics.diversity import diversity
from rcdm_cli.metrics.inception import Inception
from rcdm_cli.metrics.intervals import Bootstrap, Interval
from rcdm_cli.metrics.nearest import Memorised, knn_predict, memorised, nearest_image, quantiles
from rcdm_cli.metrics.ranks import faithfulness
from rcdm_cli.training.pretraining import class_indices

Pixels = NDArray[np.uint8]

MOST_SIMILAR = 3
"""Number of samples most similar to a training image in the results of each (method, level)."""


@dataclass(frozen=True)
class LabelledCrops:
    """Images of one size.

    Attributes:
        pixels: uint8 (N, S, S, 3).
        names: N names.
        classes: (N,) class indices; -1 for no class.
    """

    pixels: Pixels
    names: tuple[str, ...]
    classes: Tensor


def evaluate(
    bundle: Bundle | str | Path,
    images: ImageInput,
    *,
    split: str | None = None,
    limit: int | None = None,
    bank_split: str | None = None,
    ignore_classes: Sequence[str] = (),
    space: str | None = None,
    inception: str | Path | None = None,
    methods: Sequence[str] | str | None = None,
    level: str = "both",
    num_samples: int = 2,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 64,
    out: str | Path | None = None,
    force: bool = False,
    cache: StepCache | None = None,
    on_progress: OnProgress = no_progress,
    on_note: OnNote = no_note,
) -> Evaluation:
    """Generate samples of images at every (method, level), and measure the quality of the samples.

    Args:
        bundle: bundle, or its name or folder.
        images: a dataset, paths of images and folders, or uint8 arrays (H, W, 3); two images or more.
        split: sub-folder of the dataset; None selects all images.
        limit: maximum number of images, spread evenly over the dataset.
        bank_split: sub-folder of the dataset with the training images, for nearest neighbours and the k-NN accuracy.
        ignore_classes: class folders whose images have no class.
        space: ``method`` or ``method/level`` of the feature space. By default the backbone of ``supervised``, or of the
            first method if the bundle has no ``supervised``.
        inception: file with the weights of Inception for FID, KID and inception score; needs torch-fidelity.
        methods: methods; None selects all methods of the bundle.
        level: ``backbone``, ``projector`` or ``both``.
        num_samples: samples per image and (method, level), K.
        sampler: ``ddpm``, ``ddim`` or ``dpmpp``; None selects the default of the bundle, as for the next two.
        steps: number of sampling steps.
        guidance: scale of classifier-free guidance; 1 disables guidance.
        seed: seed of the noise and the bootstrap.
        batch: number of samples per batch.
        out: run folder; None writes no files.
        force: whether to replace a finished run in ``out``.
        cache: cache of expensive steps; by default a folder in ``out`` that is deleted at the end.
        on_progress: called with (stage, items done, items).
        on_note: called with a sentence for each unreadable image, and about images that are left out.

    Raises:
        InputError: a parameter is out of range, fewer than two images are readable, or ``split`` and ``bank_split``
            share images.
    """
    bundle = as_bundle(bundle)
    pairs = chosen_pairs(bundle, methods, level)
    settings = bundle.settings(sampler, steps, guidance)
    feature_pair = _feature_pair(bundle, space)
    require_at_least(1, num_samples=num_samples, batch=batch)
    require_at_least(2, limit=limit)
    require_at_least(0, seed=seed)
    network = Inception(Path(inception), bundle.device) if inception is not None else None
    dataset = open_images(images, split, on_note)
    bank_set = None if bank_split is None else open_images(images, bank_split)
    if bank_set and (shared := set(dataset.keys).intersection(bank_set.keys)):
        raise InputError(
            f"{len(shared)} of the {len(dataset)} images are also in the training images of `bank_split` {bank_split},"
            " and would be their own nearest neighbours. Give `split` and `bank_split` without common images, such as"
            " val and train."
        )
    if limit is not None:
        dataset = dataset.spread(limit)
    with run_cache(bundle, out, force, cache) as cache:
        size = max(bundle.size, *(one.spec.preprocessing.size for one in bundle.manifest.encoders.values()))
        crops = load_crops(dataset, size, f"Reading images of {split or 'the data'}", on_progress, on_note)
        bank, classes, skipped = None, None, [*crops.skipped]
        if bank_set:
            bank_crops = load_crops(bank_set, size, f"Reading images of {bank_split}", on_progress, on_note)
            labels, classes = class_indices(bank_crops.labels, tuple(ignore_classes))
            bank = LabelledCrops(bank_crops.images, bank_crops.keys, labels)
            skipped += bank_crops.skipped
        labels, _ = class_indices(crops.labels, tuple(ignore_classes), classes)
        result = measure_samples(
            bundle,
            LabelledCrops(crops.images, crops.keys, labels),
            pairs,
            space=feature_pair,
            bank=bank,
            inception=network,
            num_samples=num_samples,
            settings=settings,
            seed=seed,
            batch=batch,
            cache=cache,
            on_progress=on_progress,
        )
        excluded = {}
        if bank_set:
            excluded = {
                "images": left_out(crops.labels, ignore_classes, classes),
                "training images": left_out(bank_crops.labels, ignore_classes),
            }
        if any(one.knn for one in result.evaluated):
            for what, counts in excluded.items():
                if sentence := left_out_sentence(counts, f"{what} of the k-NN accuracy"):
                    on_note(sentence)
        result = replace(result, unreadable=tuple(key for key, _ in skipped), left_out_of_knn=excluded)
        if out is not None:
            about = provenance(bundle, seed, settings)
            about["settings"] |= {
                "data": data_name(images),
                "split": split,
                "bank_split": bank_split,
                "ignored_classes": list(ignore_classes),
                "inception_sha256": network and network.sha256,
            }
            write(Path(out), result, {**about, "unreadable": list(result.unreadable)})
    return result


def measure_samples(
    bundle: Bundle,
    images: LabelledCrops,
    pairs: Sequence[Pair],
    *,
    space: Pair,
    num_samples: int,
    settings: Settings,
    bank: LabelledCrops | None = None,
    inception: Inception | None = None,
    seed: int = 0,
    batch: int = 64,
    cache: StepCache | None = None,
    on_progress: OnProgress = no_progress,
) -> Evaluation:
    """Generate and measure samples.

    Distances, diversity and nearest training images are measured in one feature space for all pairs. Images are reduced
    to the size of the samples first, so that the resolution does not count as a difference.

    Args:
        bundle: bundle with encoders and denoiser.
        images: N images, at least 2.
        pairs: (method, level) pairs.
        space: (method, level) of the feature space.
        num_samples: samples per image and pair, K.
        settings: sampler, steps and guidance scale.
        bank: training images, with the classes for the k-NN accuracy.
        inception: Inception network for FID, KID and inception score.
        seed: seed of the noise and the bootstrap.
        batch: number of samples per batch.
        cache: cache of representations and samples.
        on_progress: called with (stage, samples done, samples).

    Raises:
        InputError: fewer than two images or training images.
    """
    for name, given in (("images", images), ("training images", bank)):
        if given and len(given.pixels) < 2:
            raise InputError(f"A distance needs at least 2 {name}, not {len(given.pixels)}.")
    cache = cache or StepCache()
    count, total = len(images.pixels), len(images.pixels) * num_samples * len(pairs)
    bootstrap = Bootstrap(count, seed)
    seeds_by_image = sample_seeds(seed, images.names, num_samples)
    seeds = list(chain.from_iterable(seeds_by_image))
    h = encode_pairs(bundle, list(images.pixels), pairs, cache=cache)
    accuracies = _knn_accuracies(bundle, images, bank, pairs, h, seed, cache)
    small = crop_all(images.pixels, bundle.size)
    small_bank = crop_all(bank.pixels, bundle.size) if bank else small[:0]
    feature_space = FeatureSpace(bundle, cache, space, inception)
    real = feature_space.features(small)
    real_bank = feature_space.features(small_bank) if bank else None
    evaluated = []
    for number, pair in enumerate(pairs):

        def show(done: int, _: int, before: int = number * len(seeds)) -> None:
            on_progress("Sampling", before + done, total)

        cond = bundle.condition(h[pair], method=pair.method, level=pair.level).repeat_interleave(num_samples, dim=0)
        flat = sample_batches(bundle, cond, seeds, settings, batch=batch, cache=cache, on_progress=show)
        found = encode_pairs(bundle, list(flat), [pair], cache=cache)[pair].reshape(count, num_samples, -1)
        features = feature_space.features(flat, every=num_samples)
        by_image = features.own.unflatten(0, (count, num_samples))
        near = memorised(by_image, real.own, real_bank.own) if real_bank else None
        samples = flat.reshape(count, num_samples, *flat.shape[1:])
        evaluated.append(
            EvaluatedRepresentation(
                pair,
                faithfulness(found, h[pair], bootstrap),
                directions(found, h[pair]),
                accuracies.get(pair),
                diversity(samples, by_image) if num_samples > 1 else None,
                distances(features.own[::num_samples], real.own),
                features.compare(real),
                near,
                _most_similar(near, small, samples, small_bank) if near else (),
            )
        )
    # Distances depend on the sizes of the sets. The reference therefore has as many training images as images.
    subset = np.linspace(0, len(small_bank) - 1, min(count, len(small_bank))).round().astype(int)
    reference = feature_space.features(small_bank[subset]) if bank else None
    return Evaluation(
        images.names,
        seeds_by_image,
        bank.names if bank else (),
        space,
        tuple(evaluated),
        distances(reference.own, real.own) if reference else None,
        len(subset),
        reference.compare(real) if reference else None,
        quantiles(nearest_image(real.own, real_bank.own)[0]) if real_bank else [],
        bootstrap,
    )


def crop_all(pixels: Pixels, size: int) -> Pixels:
    """Centre-crop images uint8 (N, H, W, 3) to (N, size, size, 3)."""
    return np.stack([center_crop(image, size) for image in pixels])


def _feature_pair(bundle: Bundle, space: str | None) -> Pair:
    """Return the feature space. The default, ``supervised``, favours no self-supervised method."""
    if space is None:
        space = "supervised" if "supervised" in bundle.methods else bundle.methods[0]
    method, _, level = space.partition("/")
    if level not in ("", *LEVELS):
        raise InputError(f"`space` {space}: there is no level {level!r}. Give METHOD/{' or METHOD/'.join(LEVELS)}.")
    return bundle.pairs([method], level or LEVELS[0])[0]


def _knn_accuracies(
    bundle: Bundle,
    images: LabelledCrops,
    bank: LabelledCrops | None,
    pairs: Sequence[Pair],
    h: dict[Pair, Tensor],
    seed: int,
    cache: StepCache,
) -> dict[Pair, Interval]:
    """Return the k-NN accuracy at each pair on the images that have a class; empty without classes."""
    labelled = images.classes >= 0
    if bank is None or not labelled.any() or not (bank.classes >= 0).any():
        return {}
    voting = bank.classes >= 0
    bootstrap = Bootstrap(int(labelled.sum()), seed)
    banks = encode_pairs(bundle, list(bank.pixels[voting.numpy()]), pairs, cache=cache)
    accuracies = {}
    for pair in pairs:
        predicted = knn_predict(h[pair][labelled], banks[pair], bank.classes[voting])
        accuracies[pair] = bootstrap.mean((predicted == images.classes[labelled]).double())
    return accuracies


def _most_similar(near: Memorised, images: Pixels, samples: Pixels, bank: Pixels) -> tuple[NearestTrainingImage, ...]:
    return tuple(
        NearestTrainingImage(images[i], samples[i, k], bank[near.index[i, k]], float(near.similarity[i, k]))
        for i, k in near.most_similar(MOST_SIMILAR)
    )

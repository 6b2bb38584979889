"""Measure a bundle's samples: faithfulness to ``h``, diversity at fixed ``h``, distance to images, memorisation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from torch import Tensor

from rcdm_cli.analyses.evaluate.features import FeatureSpace
from rcdm_cli.analyses.evaluate.results import EvaluatedRepresentation, Evaluation, NearestTrainingImage
from rcdm_cli.analyses.evaluate.section import write
from rcdm_cli.analyses.inputs import ImageInput, data_name, load_crops, open_images
from rcdm_cli.analyses.left_out import left_out, left_out_sentence
from rcdm_cli.analyses.run import AnalysisArguments, SamplingRun, open_sampling_run, require_at_least
from rcdm_cli.analyses.step_cache import encode_pairs
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.encoders.encoder import level_index
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.directions import directions
from rcdm_cli.metrics.distances import distances
from rcdm_cli.metrics.diversity import diversity
from rcdm_cli.metrics.inception import Inception
from rcdm_cli.metrics.intervals import Bootstrap, Interval
from rcdm_cli.metrics.nearest import Memorised, knn_predict, memorised, nearest_image, quantiles
from rcdm_cli.metrics.ranks import faithfulness
from rcdm_cli.training.pretraining import class_indices

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
    num_samples: int = 2,
    **options: Unpack[AnalysisArguments],
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
        num_samples: samples per image and (method, level), K.
        **options: see ``AnalysisArguments``.

    Raises:
        InputError: a parameter is out of range, fewer than two images are readable, or ``split`` and ``bank_split``
            share images.
    """
    require_at_least(1, num_samples=num_samples)
    require_at_least(2, limit=limit)
    with open_sampling_run(bundle, **options) as run:
        feature_pair = _feature_pair(run.bundle, space)
        network = Inception(Path(inception), run.bundle.device) if inception is not None else None
        dataset = open_images(images, split, run.on_note)
        bank_set = None if bank_split is None else open_images(images, bank_split)
        if bank_set and (shared := set(dataset.keys).intersection(bank_set.keys)):
            raise InputError(
                f"{len(shared)} of the {len(dataset)} images are also in the training images of `bank_split`"
                f" {bank_split}, and would be their own nearest neighbours. Give `split` and `bank_split` without"
                " common images, such as val and train."
            )
        if limit is not None:
            dataset = dataset.spread(limit)
        encoders = run.bundle.manifest.encoders.values()
        size = max(run.bundle.size, *(entry.spec.preprocessing.size for entry in encoders))
        crops = load_crops(run, dataset, size, f"Reading images of {split or 'the data'}")
        bank, classes, skipped = None, None, [*crops.skipped]
        if bank_set:
            bank_crops = load_crops(run, bank_set, size, f"Reading images of {bank_split}")
            labels, classes = class_indices(bank_crops.labels, tuple(ignore_classes))
            bank = LabelledCrops(bank_crops.images, bank_crops.keys, labels)
            skipped += bank_crops.skipped
        labels, _ = class_indices(crops.labels, tuple(ignore_classes), classes)
        given = LabelledCrops(crops.images, crops.keys, labels)
        result = measure_samples(run, given, space=feature_pair, num_samples=num_samples, bank=bank, inception=network)
        excluded = {}
        if bank_set:
            excluded = {
                "images": left_out(crops.labels, ignore_classes, classes),
                "training images": left_out(bank_crops.labels, ignore_classes),
            }
        if any(entry.knn for entry in result.evaluated):
            for what, counts in excluded.items():
                if sentence := left_out_sentence(counts, f"{what} of the k-NN accuracy"):
                    run.on_note(sentence)
        result = replace(result, unreadable=tuple(key for key, _ in skipped), left_out_of_knn=excluded)
        if run.out:
            about = run.provenance()
            about["settings"] |= {
                "data": data_name(images),
                "split": split,
                "bank_split": bank_split,
                "ignored_classes": list(ignore_classes),
                "inception_sha256": network and network.sha256,
            }
            write(run.out, result, {**about, "unreadable": list(result.unreadable)})
    return result


def measure_samples(
    run: SamplingRun,
    images: LabelledCrops,
    *,
    space: Pair,
    num_samples: int,
    bank: LabelledCrops | None = None,
    inception: Inception | None = None,
) -> Evaluation:
    """Generate and measure samples.

    Distances, diversity and nearest training images are measured in one feature space for all pairs. Images are reduced
    to the size of the samples first, so that the resolution does not count as a difference.

    Args:
        run: bundle, (method, level) pairs and sampling settings.
        images: N images, at least 2.
        space: (method, level) of the feature space.
        num_samples: samples per image and pair, K.
        bank: training images, with the classes for the k-NN accuracy.
        inception: Inception network for FID, KID and inception score.

    Raises:
        InputError: fewer than two images or training images.
    """
    for name, given in (("images", images), ("training images", bank)):
        if given and len(given.pixels) < 2:
            raise InputError(f"A distance needs at least 2 {name}, not {len(given.pixels)}.")
    bundle, count = run.bundle, len(images.pixels)
    bootstrap = Bootstrap(count, run.seed)
    seeds = sample_seeds(run.seed, images.names, num_samples)
    h = run.encode(list(images.pixels))
    accuracies = _knn_accuracies(run, images, bank, h)
    small = crop_all(images.pixels, bundle.size)
    small_bank = crop_all(bank.pixels, bundle.size) if bank else small[:0]
    feature_space = FeatureSpace(bundle, run.cache, space, inception)
    real = feature_space.features(small)
    real_bank = feature_space.features(small_bank) if bank else None
    evaluated = []
    for number, pair in enumerate(run.pairs):

        def show(done: int, samples: int, number: int = number) -> None:
            run.on_progress("Sampling", number * samples + done, len(run.pairs) * samples)

        with run.cache.divided():
            samples = run.sample({pair: h[pair]}, seeds, on_progress=show)[pair]
            flat = samples.reshape(-1, *samples.shape[2:])
            sample_h = encode_pairs(bundle, list(flat), [pair], batch=run.batch, cache=run.cache)[pair]
            sample_h = sample_h.unflatten(0, (count, num_samples))
            features = feature_space.features(flat, every=num_samples)
            by_image = features.own.unflatten(0, (count, num_samples))
            nearest = memorised(by_image, real.own, real_bank.own) if real_bank else None
            evaluated.append(
                EvaluatedRepresentation(
                    pair=pair,
                    faithfulness=faithfulness(sample_h, h[pair], bootstrap),
                    directions=directions(sample_h, h[pair]),
                    knn=accuracies.get(pair),
                    diversity=diversity(samples, by_image) if num_samples > 1 else None,
                    distances=distances(features.own[::num_samples], real.own),
                    inception=features.compare(real),
                    memorised=nearest,
                    nearest=_most_similar(nearest, small, samples, small_bank) if nearest else (),
                )
            )
    run.cache.require_all()
    # Distances depend on the sizes of the sets. The reference therefore has as many training images as images.
    subset = np.linspace(0, len(small_bank) - 1, min(count, len(small_bank))).round().astype(int)
    reference = feature_space.features(small_bank[subset]) if bank else None
    return Evaluation(
        images=images.names,
        seeds=seeds,
        bank=bank.names if bank else (),
        space=space,
        evaluated=tuple(evaluated),
        real=distances(reference.own, real.own) if reference else None,
        compared=len(subset),
        real_inception=reference.compare(real) if reference else None,
        similarity_of_images=quantiles(nearest_image(real.own, real_bank.own)[0]) if real_bank else [],
        bootstrap=bootstrap,
    )


def crop_all(pixels: Pixels, size: int) -> Pixels:
    """Centre-crop images uint8 (N, H, W, 3) to (N, size, size, 3)."""
    return np.stack([center_crop(image, size) for image in pixels])


def _feature_pair(bundle: Bundle, space: str | None) -> Pair:
    """Return the feature space. The default, ``supervised``, favours no self-supervised method."""
    if space is None:
        space = "supervised" if "supervised" in bundle.methods else bundle.methods[0]
    method, _, level = space.partition("/")
    if method not in bundle.methods:
        raise InputError(unknown_name_message("method", method, bundle.methods))
    pair = Pair(method, level or "backbone")
    level_index(bundle.manifest.encoders[method].spec, pair.level)
    return pair


def _knn_accuracies(
    run: SamplingRun, images: LabelledCrops, bank: LabelledCrops | None, h: dict[Pair, Tensor]
) -> dict[Pair, Interval]:
    """Return the k-NN accuracy at each pair on the images that have a class; empty without classes."""
    labelled = images.classes >= 0
    if bank is None or not labelled.any() or not (bank.classes >= 0).any():
        return {}
    voting = bank.classes >= 0
    bootstrap = Bootstrap(int(labelled.sum()), run.seed)
    banks = run.encode(list(bank.pixels[voting.numpy()]))
    accuracies = {}
    for pair in run.pairs:
        predicted = knn_predict(h[pair][labelled], banks[pair], bank.classes[voting])
        accuracies[pair] = bootstrap.mean((predicted == images.classes[labelled]).double())
    return accuracies


def _most_similar(
    nearest: Memorised, images: Pixels, samples: Pixels, bank: Pixels
) -> tuple[NearestTrainingImage, ...]:
    return tuple(
        NearestTrainingImage(images[i], samples[i, k], bank[nearest.index[i, k]], float(nearest.similarity[i, k]))
        for i, k in nearest.most_similar(MOST_SIMILAR)
    )

"""Linear probes on frozen representations, and probes refitted on bootstrap resamples of the training images.

A linear classifier is solved to its optimum and k-NN has no training, so both give the same result for any seed on the
same images. Variation comes from the choice of the training images. Each resample has the size of the training set and
is drawn with replacement (Efron 1979). The images that are not drawn, about 37 %, select the L2 strength. In k-NN an
image that was drawn twice counts as one neighbour.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.analyses.run import Run
from rcdm_cli.analyses.step_cache import tensors_hash
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.seeds import derive_seed
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.linear_probe import FITS, STRENGTHS, LinearClassifier, fit, select_strength
from rcdm_cli.metrics.nearest import knn_predict
from rcdm_cli.training.pretraining import class_indices

NEIGHBOURS = 20
"""Number of neighbours that vote in the k-NN classifier."""


class LinearProbes(NamedTuple):
    """Linear classifiers on frozen representations.

    Attributes:
        classes: C class names, in the order of the class indices.
        classifiers: classifier by (method, level).
        strengths: L2 strength of each classifier.
    """

    classes: tuple[str, ...]
    classifiers: dict[Pair, LinearClassifier]
    strengths: dict[Pair, float]


class LabelledRepresentations(NamedTuple):
    """Representations float32 (N, D) and their class indices int64 (N,)."""

    h: Tensor
    labels: Tensor


class BootstrapSample(NamedTuple):
    """Indices of training images: ``drawn`` (N,) with repetitions, and ``left_out`` (M,), the images never drawn."""

    drawn: Tensor
    left_out: Tensor


class RefitAccuracy(NamedTuple):
    """Accuracies on the validation images after one resample, and the selected L2 strength."""

    linear: float
    knn: float
    strength: float


def labelled_images(
    embeddings: Embeddings, ignore_classes: Sequence[str] = (), classes: tuple[str, ...] | None = None
) -> tuple[Embeddings, Tensor, tuple[str, ...]]:
    """Return the images that have a class, their class indices (N,), and the class names.

    Args:
        embeddings: representations of images with or without classes.
        ignore_classes: names that count as no class.
        classes: class names; None takes all names that occur.

    Raises:
        InputError: no image has a class.
    """
    indices, names = class_indices(embeddings.labels, tuple(ignore_classes), classes)
    index = torch.nonzero(indices >= 0).flatten()
    if not len(index):
        raise InputError("None of the images has a class. A probe needs class folders: DATA/<split>/<class>/<image>.")
    return embeddings.rows(index.tolist()), indices[index], names


def fit_probes(
    run: Run,
    training: Embeddings,
    pairs: Sequence[Pair],
    *,
    ignore_classes: Sequence[str] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LinearProbes:
    """Fit a linear classifier on the representations at every pair.

    Args:
        run: seed of the split that selects the L2 strength, and cache of the classifiers.
        training: representations of the training images; images without a class are left out.
        pairs: (method, level) pairs.
        ignore_classes: names that count as no class.
        on_progress: called with (fits done, fits), over all pairs.

    Raises:
        InputError: no labelled image, fewer than two classes, or too few images.
    """
    training, labels, classes = labelled_images(training, ignore_classes)
    probes = LinearProbes(classes, {}, {})
    for number, pair in enumerate(pairs):

        def show(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(pairs) * total)

        h = training.representations[pair]

        def compute(h: Tensor = h, show: Callable[[int, int], None] = show) -> dict[str, Tensor]:
            fitted = fit(h, labels, len(classes), seed=run.seed, on_progress=show)
            return {**fitted.classifier._asdict(), "strength": torch.tensor(fitted.strength, dtype=torch.float64)}

        key = {"step": "linear probe", "h": tensors_hash(h, labels), "classes": len(classes), "seed": run.seed}
        part = run.cache.get_or_compute(key, compute)
        probes.classifiers[pair] = LinearClassifier(part["weight"], part["bias"])
        probes.strengths[pair] = float(part["strength"])
        show(FITS, FITS)
    return probes


def bootstrap_resample(count: int, seed: int, number: int) -> BootstrapSample:
    """Draw resample ``number`` of ``count`` images, 2 or more. Different numbers and seeds are independent."""
    generator = np.random.default_rng(derive_seed("probe resample", seed, number))
    while True:
        drawn = generator.integers(0, count, count)
        left_out = np.setdiff1d(np.arange(count), drawn)
        # A resample of very few images may contain all of them, which leaves no image to select the strength.
        if len(left_out):
            return BootstrapSample(torch.from_numpy(drawn), torch.from_numpy(left_out))


def refit(
    run: Run,
    training: LabelledRepresentations,
    validation: LabelledRepresentations,
    classes: int,
    *,
    seeds: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[RefitAccuracy]:
    """Refit both classifiers on bootstrap resamples and return their accuracies on the validation images.

    Args:
        run: seed of the resamples, which do not depend on the representation, and cache of the accuracies.
        training: training images, which are resampled.
        validation: validation images.
        classes: number of classes, C.
        seeds: number of resamples.
        on_progress: called with the number of fits done, of ``seeds * len(STRENGTHS)``.
    """
    hashed = tensors_hash(*training, *validation)
    accuracies = []
    for number in range(seeds):

        def compute(number: int = number) -> dict[str, Tensor]:
            sample, before = bootstrap_resample(len(training.h), run.seed, number), number * len(STRENGTHS)
            fitted = select_strength(*training, classes, *sample, lambda done: on_progress(before + done))
            linear = fitted.classifier.correct(*validation).mean()
            unique = sample.drawn.unique()
            subset = LabelledRepresentations(training.h[unique], training.labels[unique])
            values = [linear, knn_correct(subset, validation).mean(), fitted.strength]
            return {"found": torch.tensor(values, dtype=torch.float64)}

        key = {"step": "refit", "of": hashed, "classes": classes, "resample": [run.seed, number]}
        accuracies.append(RefitAccuracy(*run.cache.get_or_compute(key, compute)["found"].tolist()))
        on_progress((number + 1) * len(STRENGTHS))
    return accuracies


def knn_correct(training: LabelledRepresentations, validation: LabelledRepresentations) -> Tensor:
    """Return float64 (B,): 1 for each validation image that weighted k-NN classifies correctly, else 0."""
    return (knn_predict(validation.h, *training, neighbours=NEIGHBOURS) == validation.labels).double()

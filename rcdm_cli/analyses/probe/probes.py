"""Linear classifiers that read the class of an image from its frozen representation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rcdm_cli.analyses.step_cache import StepCache, hash_of
from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.linear_probe import FITS, LinearClassifier, fit
from rcdm_cli.training.pretraining import class_indices


class LinearProbes(NamedTuple):
    """Linear classifiers on frozen representations.

    Attributes:
        classes: names, in the order of class indices.
        classifiers: by pair.
        strengths: L2 strength of each.
    """

    classes: tuple[str, ...]
    classifiers: dict[Pair, LinearClassifier]
    strengths: dict[Pair, float]


def labelled(
    embeddings: Embeddings, ignore: Sequence[str] = (), classes: tuple[str, ...] | None = None
) -> tuple[Embeddings, Tensor, tuple[str, ...]]:
    """The images that have a class, their class indices (N,), and the classes' names.

    Args:
        embeddings: of images with or without classes.
        ignore: classes that count as none.
        classes: the known ones; None takes all that occur.

    Raises:
        InputError: no image has a class.
    """
    indices, names = class_indices(embeddings.labels, tuple(ignore), classes)
    index = torch.nonzero(indices >= 0).flatten()
    if not len(index):
        raise InputError(
            "None of the images has a class that counts. A probe needs class folders: DATA/<split>/<class>/<image>."
        )
    return embeddings.rows(index.tolist()), indices[index], names


def learn(
    training: Embeddings,
    pairs: Sequence[Pair],
    *,
    ignore: Sequence[str] = (),
    seed: int,
    cache: StepCache,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LinearProbes:
    """Fit a linear classifier on the representations of every pair, or take it from ``kept``.

    Args:
        training: representations that are learnt from; images without a class are left out.
        pairs: whose.
        ignore: classes that count as none.
        seed: which images are held out to choose the L2 strength.
        cache: where classifiers stay until the work is done.
        on_progress: called with (fits done, fits), over all pairs.

    Raises:
        InputError: no labelled image, fewer than two classes, or too few images.
    """
    training, labels, classes = labelled(training, ignore)
    probes = LinearProbes(classes, {}, {})
    for number, pair in enumerate(pairs):

        def show(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(pairs) * total)

        h = training.representations[pair]

        def make(h: Tensor = h, show: Callable[[int, int], None] = show) -> dict[str, Tensor]:
            fitted = fit(h, labels, len(classes), seed=seed, on_progress=show)
            return {**fitted.classifier._asdict(), "strength": torch.tensor(fitted.strength, dtype=torch.float64)}

        key = {"step": "linear classifier", "h": hash_of(h, labels), "classes": len(classes), "seed": seed}
        part = cache.get_or_compute(key, make)
        probes.classifiers[pair] = LinearClassifier(part["weight"], part["bias"])
        probes.strengths[pair] = float(part["strength"])
        show(FITS, FITS)
    return probes

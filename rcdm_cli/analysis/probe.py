"""What can be read from a frozen representation: accuracy of a linear classifier and of k-NN, level by level."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rcdm_cli.analysis.bootstrap import DRAWS, LEVEL, Bootstrap, Interval
from rcdm_cli.analysis.embeddings import Embeddings
from rcdm_cli.analysis.kept import Kept
from rcdm_cli.analysis.linear import FITS, LinearClassifier, fit
from rcdm_cli.analysis.pairs import Pair
from rcdm_cli.encoders.knn import knn_predict
from rcdm_cli.errors import InputError
from rcdm_cli.training.pretrain import class_indices

NEIGHBOURS = 20


@dataclass(frozen=True)
class Probed:
    """One (method, level).

    Attributes:
        method: of the representation.
        level: of the representation.
        width: D.
        linear: accuracy of the linear classifier on the validation photos.
        knn: accuracy of the weighted vote of the nearest training photos.
        strength: L2 strength of the linear classifier.
        by_class: accuracy of the linear classifier on each class's validation photos; None where there is none.
    """

    method: str
    level: str
    width: int
    linear: Interval
    knn: Interval
    strength: float
    by_class: list[float | None]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        intervals = {"linear": self.linear.as_json(), "knn": self.knn.as_json()}
        return {**self.__dict__, **intervals}


@dataclass(frozen=True)
class Difference:
    """Backbone less projector of one method, in accuracy on the same validation photos."""

    method: str
    linear: Interval
    knn: Interval

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {"method": self.method, "linear": self.linear.as_json(), "knn": self.knn.as_json()}


@dataclass(frozen=True)
class Probes:
    """What was found; intervals are over the validation photos, with the classifiers as they are.

    Attributes:
        classes: names, in the order of class indices.
        counts: validation photos of each class.
        training: number of training photos.
        probed: by pair, in the order asked.
        differences: of each method that has both levels.
    """

    classes: tuple[str, ...]
    counts: list[int]
    training: int
    probed: list[Probed]
    differences: list[Difference]

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "classes": list(self.classes),
            "validation_photos_by_class": self.counts,
            "training_photos": self.training,
            "validation_photos": sum(self.counts),
            "majority": max(self.counts) / sum(self.counts),
            "neighbours": NEIGHBOURS,
            "interval": {"level": LEVEL, "draws": DRAWS, "over": "validation photos"},
            "results": [one.as_json() for one in self.probed],
            "differences": [one.as_json() for one in self.differences],
        }


def labelled(
    embeddings: Embeddings, ignore: Sequence[str] = (), classes: tuple[str, ...] | None = None
) -> tuple[Embeddings, Tensor, tuple[str, ...]]:
    """The photos that have a class, their class indices (N,), and the classes' names.

    Args:
        embeddings: of photos with or without classes.
        ignore: classes that count as none.
        classes: the known ones; None takes all that occur.

    Raises:
        InputError: no photo has a class.
    """
    indices, names = class_indices(embeddings.labels, tuple(ignore), classes)
    index = torch.nonzero(indices >= 0).flatten()
    if not len(index):
        raise InputError(
            "None of the photos has a class that counts. A probe needs class folders: DATA/<split>/<class>/<photo>."
        )
    return embeddings.rows(index.tolist()), indices[index], names


class Readers(NamedTuple):
    """Linear classifiers on frozen representations.

    Attributes:
        classes: names, in the order of class indices.
        classifiers: by pair.
        strengths: L2 strength of each.
    """

    classes: tuple[str, ...]
    classifiers: dict[Pair, LinearClassifier]
    strengths: dict[Pair, float]


def learn(
    training: Embeddings,
    pairs: Sequence[Pair],
    *,
    ignore: Sequence[str] = (),
    seed: int,
    kept: Kept,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Readers:
    """Fit a linear classifier on the representations of every pair, or take it from ``kept``.

    Args:
        training: representations that are learnt from; photos without a class are left out.
        pairs: whose.
        ignore: classes that count as none.
        seed: which photos are held out to choose the L2 strength.
        kept: where classifiers stay until the work is done.
        on_progress: called with (fits done, fits), over all pairs.

    Raises:
        InputError: no labelled photo, fewer than two classes, or too few photos.
    """
    training, labels, classes = labelled(training, ignore)
    photos = [*zip(training.paths, labels.tolist(), strict=True)]
    digest = hashlib.sha256(json.dumps([photos, classes]).encode()).hexdigest()
    readers = Readers(classes, {}, {})
    for number, pair in enumerate(pairs):

        def show(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(pairs) * total)

        def make(pair: Pair = pair, show: Callable[[int, int], None] = show) -> dict[str, Tensor]:
            fitted = fit(training.representations[pair], labels, len(classes), seed=seed, on_progress=show)
            return {**fitted.classifier._asdict(), "strength": torch.tensor(fitted.strength, dtype=torch.float64)}

        key = {"step": "linear classifier", "pair": pair, "photos": digest, "seed": seed}
        part = kept.once({**key, "encoder": training.encoders[pair.method].sha256}, make)
        readers.classifiers[pair] = LinearClassifier(part["weight"], part["bias"])
        readers.strengths[pair] = float(part["strength"])
        show(FITS, FITS)
    return readers


def probe(
    training: Embeddings,
    validation: Embeddings,
    pairs: Sequence[Pair],
    *,
    ignore: Sequence[str] = (),
    seed: int = 0,
    kept: Kept,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probes:
    """Accuracy of both classifiers on the validation photos, for each pair.

    Args:
        training: representations that are learnt from.
        validation: representations that are asked about; photos of classes that training lacks are left out.
        pairs: what is compared.
        ignore: classes that count as none.
        seed: of the held-out part that chooses the L2 strength, and of the bootstrap.
        kept: where classifiers stay until the work is done.
        on_progress: called with (fits done, fits), over all pairs.

    Raises:
        InputError: no labelled photo on either side, or fewer than two classes.
    """
    readers = learn(training, pairs, ignore=ignore, seed=seed, kept=kept, on_progress=on_progress)
    training, known, classes = labelled(training, ignore)
    validation, truth, _ = labelled(validation, (), classes)
    bootstrap = Bootstrap(len(truth), seed)
    linear: dict[Pair, Tensor] = {}
    knn: dict[Pair, Tensor] = {}
    probed = []
    for pair in pairs:
        h, bank = validation.representations[pair], training.representations[pair]
        linear[pair] = (readers.classifiers[pair].logits(h).argmax(1) == truth).double()
        knn[pair] = (knn_predict(h, bank, known, neighbours=NEIGHBOURS) == truth).double()
        by_class = [_mean(linear[pair][truth == index]) for index in range(len(classes))]
        accuracies = bootstrap.mean(linear[pair]), bootstrap.mean(knn[pair])
        probed.append(Probed(pair.method, pair.level, h.shape[1], *accuracies, readers.strengths[pair], by_class))
    differences = []
    for method in dict.fromkeys(pair.method for pair in pairs):
        backbone, projector = Pair(method, "backbone"), Pair(method, "projector")
        if backbone in linear and projector in linear:
            both = (bootstrap.mean(right[backbone] - right[projector]) for right in (linear, knn))
            differences.append(Difference(method, *both))
    counts = torch.bincount(truth, minlength=len(classes)).tolist()
    return Probes(classes, counts, len(known), probed, differences)


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None

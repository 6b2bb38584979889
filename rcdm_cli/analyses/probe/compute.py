"""What can be read from a frozen representation: accuracy of a linear classifier and of k-NN, level by level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rcdm_cli.analyses.probe.probes import labelled, learn
from rcdm_cli.analyses.probe.resample import NEIGHBOURS, Labelled, knn_correct, refit
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import CONFIDENCE, NUM_RESAMPLES, Bootstrap, Interval, t_interval
from rcdm_cli.metrics.linear_probe import FITS, STRENGTHS


@dataclass(frozen=True)
class Measured:
    """An accuracy, or a difference of two, and how sure it is in two ways.

    Attributes:
        images: learnt from all training images; the interval is over the validation images.
        seeds: mean over draws of the training images, on the same validation images; the interval is over the draws.
            Each draw holds about 63 % of the images, so accuracies are as a rule a little lower than ``images``.
        by_seed: the value of each draw.
    """

    images: Interval
    seeds: Interval
    by_seed: list[float]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {**self.images.as_json(), "over_seeds": {**self.seeds.as_json(), "values": self.by_seed}}


@dataclass(frozen=True)
class Probed:
    """One (method, level).

    Attributes:
        pair: of the representation.
        width: D.
        linear: accuracy of the linear classifier on the validation images.
        knn: accuracy of the weighted vote of the nearest training images.
        strength: L2 strength of the linear classifier that learnt from all training images.
        strength_by_seed: the same of each draw.
        by_class: accuracy of the linear classifier on each class's validation images; None where there is none.
    """

    pair: Pair
    width: int
    linear: Measured
    knn: Measured
    strength: float
    strength_by_seed: list[float]
    by_class: list[float | None]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {
            "method": self.pair.method,
            "level": self.pair.level,
            "width": self.width,
            "linear": self.linear.as_json(),
            "knn": self.knn.as_json(),
            "strength": self.strength,
            "strength_by_seed": self.strength_by_seed,
            "by_class": self.by_class,
        }


@dataclass(frozen=True)
class Difference:
    """Backbone less projector of one method: on the same validation images, and after the same draws."""

    method: str
    linear: Measured
    knn: Measured

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {"method": self.method, "linear": self.linear.as_json(), "knn": self.knn.as_json()}


@dataclass(frozen=True)
class Probes:
    """What was found.

    Attributes:
        classes: names, in the order of class indices.
        counts: validation images of each class.
        training: number of training images.
        seeds: number of draws of the training images.
        probed: by pair, in the order asked.
        differences: of each method that has both levels.
    """

    classes: tuple[str, ...]
    counts: list[int]
    training: int
    seeds: int
    probed: list[Probed]
    differences: list[Difference]

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "classes": list(self.classes),
            "validation_images_by_class": self.counts,
            "training_images": self.training,
            "validation_images": sum(self.counts),
            "majority": max(self.counts) / sum(self.counts),
            "neighbours": NEIGHBOURS,
            "seeds": self.seeds,
            "interval": {
                "level": CONFIDENCE,
                "over_images": f"percentile bootstrap over the validation images, {NUM_RESAMPLES} draws",
                "over_seeds": f"Student's t of the mean over {self.seeds} bootstrap draws of the training images; the"
                " images that a draw leaves out choose its L2 strength",
            },
            "results": [one.as_json() for one in self.probed],
            "differences": [one.as_json() for one in self.differences],
        }


def probe(
    training: Embeddings,
    validation: Embeddings,
    pairs: Sequence[Pair],
    *,
    ignore: Sequence[str] = (),
    seeds: int = 5,
    seed: int = 0,
    cache: StepCache,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probes:
    """Accuracy of both classifiers on the validation images, for each pair.

    Args:
        training: representations that are learnt from.
        validation: representations that are asked about; images of classes that training lacks are left out.
        pairs: what is compared.
        ignore: classes that count as none.
        seeds: draws of the training images (see ``redrawn``), 2 or more.
        seed: of the draws, of the held-out part that chooses the L2 strength, and of the bootstrap.
        cache: where classifiers stay until the work is done.
        on_progress: called with (fits done, fits), over all pairs.

    Raises:
        InputError: no labelled image on either side, or fewer than two classes.
    """
    first, each = len(pairs) * FITS, seeds * len(STRENGTHS)
    total = first + len(pairs) * each
    probes = learn(
        training, pairs, ignore=ignore, seed=seed, cache=cache, on_progress=lambda done, _: on_progress(done, total)
    )
    training, known, classes = labelled(training, ignore)
    validation, truth, _ = labelled(validation, (), classes)
    bootstrap = Bootstrap(len(truth), seed)
    linear: dict[Pair, _Values] = {}
    knn: dict[Pair, _Values] = {}
    probed = []
    for number, pair in enumerate(pairs):

        def show(done: int, before: int = first + number * each) -> None:
            on_progress(before + done, total)

        bank = Labelled(training.representations[pair], known)
        asked = Labelled(validation.representations[pair], truth)
        # Every pair has the same draws, so that differences between pairs are paired by draw.
        after = refit(bank, asked, len(classes), seeds=seeds, seed=seed, cache=cache, on_progress=show)
        right = probes.classifiers[pair].correct(*asked)
        linear[pair] = _Values(right, [one.linear for one in after])
        knn[pair] = _Values(knn_correct(bank, asked), [one.knn for one in after])
        probed.append(
            Probed(
                pair,
                asked.h.shape[1],
                linear[pair].measured(bootstrap),
                knn[pair].measured(bootstrap),
                probes.strengths[pair],
                [one.strength for one in after],
                [_mean(right[truth == index]) for index in range(len(classes))],
            )
        )
    differences = []
    for method in dict.fromkeys(pair.method for pair in pairs):
        backbone, projector = Pair(method, "backbone"), Pair(method, "projector")
        if backbone in linear and projector in linear:
            both = (values[backbone].less(values[projector]).measured(bootstrap) for values in (linear, knn))
            differences.append(Difference(method, *both))
    counts = torch.bincount(truth, minlength=len(classes)).tolist()
    return Probes(classes, counts, len(known), seeds, probed, differences)


class _Values(NamedTuple):
    """For each validation image whether its class was named rightly, (N,), and for each draw the share of them."""

    images: Tensor
    by_seed: list[float]

    def less(self, other: "_Values") -> "_Values":
        """The differences, paired by image and by draw."""
        by_seed = [mine - theirs for mine, theirs in zip(self.by_seed, other.by_seed, strict=True)]
        return _Values(self.images - other.images, by_seed)

    def measured(self, bootstrap: Bootstrap) -> Measured:
        return Measured(bootstrap.mean(self.images), t_interval(self.by_seed), self.by_seed)


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None

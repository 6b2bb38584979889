"""Results of attacks: robustness curves with confidence intervals, comparisons with supervised, samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.analyses.fgsm.attacks import AttackCase, AttackedImages, AttackOutcome, AttackPlan
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import CONFIDENCE, NUM_RESAMPLES, Bootstrap, Interval, percentile_interval

REFERENCE = Pair("supervised", "backbone")
"""Representation that all others are compared with."""


@dataclass(frozen=True)
class RobustnessCurve:
    """One representation under one attack: one value per epsilon.

    Attributes:
        pair: (method, level).
        attack: name of the attack.
        accuracy: accuracy of the classifier; empty without classifiers.
        drift: mean of 1 − cosine similarity between the representations before and after the attack.
        largest: largest change of any pixel.
        robust: mean accuracy over the epsilons above 0; None without classifiers.
        relative: ``robust`` divided by the accuracy at epsilon 0.
    """

    pair: Pair
    attack: str
    accuracy: list[Interval]
    drift: list[Interval]
    largest: list[float]
    robust: Interval | None
    relative: Interval | None

    def as_json(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return {
            **self.pair._asdict(),
            "attack": self.attack,
            "accuracy": [interval.as_json() for interval in self.accuracy],
            "drift": [interval.as_json() for interval in self.drift],
            "largest_change": self.largest,
            "robust_accuracy": self.robust and self.robust.as_json(),
            "relative_accuracy": self.relative and self.relative.as_json(),
        }


@dataclass(frozen=True)
class SupervisedComparison:
    """A representation minus ``REFERENCE``, on the same images under the same attack.

    Attributes:
        pair: (method, level).
        attack: name of the attack.
        robust: difference of ``RobustnessCurve.robust``; None without classifiers.
        relative: difference of ``RobustnessCurve.relative``.
        drift: difference of the mean drift over the epsilons above 0.
    """

    pair: Pair
    attack: str
    robust: Interval | None
    relative: Interval | None
    drift: Interval

    def as_json(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return {
            **self.pair._asdict(),
            "attack": self.attack,
            "robust_accuracy": self.robust and self.robust.as_json(),
            "relative_accuracy": self.relative and self.relative.as_json(),
            "drift": self.drift.as_json(),
        }


@dataclass(frozen=True)
class AttackedSamples:
    """Samples of one image at every pair and epsilon.

    Attributes:
        image: index of the image.
        cells: by pair and epsilon, the attacked image uint8 (S, S, 3) and its samples uint8 (K, T, T, 3).
    """

    image: int
    cells: list[list[tuple[Pixels, Pixels]]]
    seeds: list[int]


@dataclass(frozen=True)
class Robustness:
    """Curves and comparisons. Intervals are over the images, for fixed encoders and classifiers.

    Attributes:
        curves: one curve per (method, level) and attack.
        comparisons: one comparison per (method, level) but ``REFERENCE``, and attack.
        images: JSON-able values of each image: class, predicted classes and drifts.
        left_out: result of ``left_out`` for the candidate images; None without classifiers.
        unreadable: descriptions of unreadable images.
        samples: samples of attacked images.
    """

    curves: list[RobustnessCurve]
    comparisons: list[SupervisedComparison]
    images: list[dict[str, Any]]
    left_out: dict[str, Any] | None = None
    unreadable: list[str] = field(default_factory=list)
    samples: list[AttackedSamples] = field(default_factory=list)

    @property
    def largest_drift(self) -> tuple[float, RobustnessCurve]:
        """Largest mean drift at any epsilon, and its curve."""
        return max(
            ((interval.value, curve) for curve in self.curves for interval in curve.drift), key=lambda found: found[0]
        )

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        return {
            "images_attacked": len(self.images),
            "left_out": self.left_out,
            "unreadable": self.unreadable,
            "interval": {"level": CONFIDENCE, "draws": NUM_RESAMPLES, "over": "images"},
            "results": [curve.as_json() for curve in self.curves],
            "against_supervised": [comparison.as_json() for comparison in self.comparisons],
            "images": self.images,
        }


def summarise(
    outcomes: Mapping[AttackCase, AttackOutcome], subjects: AttackedImages, pairs: Sequence[Pair], plan: AttackPlan
) -> Robustness:
    """Compute the curves of every pair and attack and, for two images or more, the comparisons with ``REFERENCE``.

    Args:
        outcomes: outcomes of ``attack_all``.
        subjects: attacked images.
        pairs: (method, level) pairs in the order of the results.
        plan: plan of ``attack_all``; the first epsilon is 0.
    """
    bootstrap = Bootstrap(len(subjects), plan.seed)
    curves, comparisons = [], []
    for name in plan.attacks:
        measured = {pair: _measure(outcomes, subjects, pair, name, plan) for pair in pairs}
        for pair, values in measured.items():
            curves.append(_curve(bootstrap, pair, name, values))
            # All resamples of one image are equal, so that an interval would have no width.
            if REFERENCE in measured and pair != REFERENCE and len(subjects) > 1:
                comparisons.append(_compare(bootstrap, pair, name, values, measured[REFERENCE]))
    images = _image_values(outcomes, pairs, plan, subjects)
    return Robustness(curves, comparisons, images, subjects.left_out, subjects.unreadable)


def _image_values(
    outcomes: Mapping[AttackCase, AttackOutcome], pairs: Sequence[Pair], plan: AttackPlan, subjects: AttackedImages
) -> list[dict[str, Any]]:
    """Return the class of each image and, at each epsilon, the predicted class and the drift. JSON-able."""
    values = []
    for i, path in enumerate(subjects.paths):
        found = []
        for pair in pairs:
            for name in plan.attacks:
                mine = [outcomes[AttackCase(pair, name, epsilon)] for epsilon in plan.epsilons]
                found.append(
                    {
                        **pair._asdict(),
                        "attack": name,
                        "predicted": [
                            subjects.classes[entry.predicted[i]] for entry in mine if entry.predicted is not None
                        ],
                        "drift": [round(1 - float(entry.similarity[i]), 6) for entry in mine],
                    }
                )
        label = None if subjects.labels is None else subjects.classes[subjects.labels[i]]
        values.append({"image": path, "class": label, "representations": found})
    return values


@dataclass(frozen=True)
class _ByEpsilon:
    """Correct classification (E, N) or None, drift (E, N), and the largest change of a pixel (E)."""

    correct: Tensor | None
    drift: Tensor
    largest: list[float]


def _measure(
    outcomes: Mapping[AttackCase, AttackOutcome], subjects: AttackedImages, pair: Pair, name: str, plan: AttackPlan
) -> _ByEpsilon:
    mine = [outcomes[AttackCase(pair, name, epsilon)] for epsilon in plan.epsilons]
    predicted = [entry.predicted for entry in mine if entry.predicted is not None]
    correct = None
    if predicted and subjects.labels is not None:
        correct = (torch.stack(predicted) == subjects.labels).double()
    drift = 1 - torch.stack([entry.similarity for entry in mine]).double()
    return _ByEpsilon(correct, drift, [float(entry.largest.max()) for entry in mine])


def _curve(bootstrap: Bootstrap, pair: Pair, name: str, values: _ByEpsilon) -> RobustnessCurve:
    drifts = [bootstrap.mean(row) for row in values.drift]
    if values.correct is None:
        return RobustnessCurve(pair, name, [], drifts, values.largest, None, None)
    robust = _mean_above_0(values.correct)
    return RobustnessCurve(
        pair,
        name,
        [bootstrap.mean(row) for row in values.correct],
        drifts,
        values.largest,
        bootstrap.mean(robust),
        percentile_interval(bootstrap.ratio(robust, values.correct[0])),
    )


def _compare(
    bootstrap: Bootstrap, pair: Pair, name: str, mine: _ByEpsilon, reference: _ByEpsilon
) -> SupervisedComparison:
    drift = bootstrap.mean(_mean_above_0(mine.drift) - _mean_above_0(reference.drift))
    if mine.correct is None or reference.correct is None:
        return SupervisedComparison(pair, name, None, None, drift)
    both = (mine.correct, reference.correct)
    robust = [_mean_above_0(correct) for correct in both]
    ratios = [bootstrap.ratio(above, correct[0]) for above, correct in zip(robust, both, strict=True)]
    return SupervisedComparison(
        pair, name, bootstrap.mean(robust[0] - robust[1]), percentile_interval(ratios[0] - ratios[1]), drift
    )


def _mean_above_0(values: Tensor) -> Tensor:
    """Return the mean over the epsilons above 0 for each image: (E, N) → (N,)."""
    return values[1:].mean(dim=0)

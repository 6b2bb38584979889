"""Results of attacks: robustness curves with confidence intervals, comparisons with supervised, samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.analyses.as_json import as_json
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
        largest_change: largest change of any pixel.
        robust_accuracy: mean accuracy over the epsilons above 0; None without classifiers.
        relative_accuracy: ``robust_accuracy`` divided by the accuracy at epsilon 0.
    """

    pair: Pair
    attack: str
    accuracy: list[Interval]
    drift: list[Interval]
    largest_change: list[float]
    robust_accuracy: Interval | None
    relative_accuracy: Interval | None


@dataclass(frozen=True)
class SupervisedComparison:
    """A representation minus ``REFERENCE``, on the same images under the same attack.

    Attributes:
        pair: (method, level).
        attack: name of the attack.
        robust_accuracy: difference of ``RobustnessCurve.robust_accuracy``; None without classifiers.
        relative_accuracy: difference of ``RobustnessCurve.relative_accuracy``.
        drift: difference of the mean drift over the epsilons above 0.
    """

    pair: Pair
    attack: str
    robust_accuracy: Interval | None
    relative_accuracy: Interval | None
    drift: Interval


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
            ((interval.value, curve) for curve in self.curves for interval in curve.drift),
            key=lambda drift_and_curve: drift_and_curve[0],
        )

    def as_json(self) -> dict[str, Any]:
        """Return all numbers, without pixels."""
        return {
            "images_attacked": len(self.images),
            "left_out": self.left_out,
            "unreadable": self.unreadable,
            "interval": {"level": CONFIDENCE, "draws": NUM_RESAMPLES, "over": "images"},
            "results": as_json(self.curves),
            "against_supervised": as_json(self.comparisons),
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
    measured = {
        (pair, attack): _by_epsilon(
            [outcomes[AttackCase(pair, attack, epsilon)] for epsilon in plan.epsilons], subjects
        )
        for attack in plan.attacks
        for pair in pairs
    }
    return Robustness(
        [_curve(bootstrap, *case, values) for case, values in measured.items()],
        [
            _compare(bootstrap, pair, attack, values, measured[REFERENCE, attack])
            for (pair, attack), values in measured.items()
            # All resamples of one image are equal, so that an interval would have no width.
            if REFERENCE in pairs and pair != REFERENCE and len(subjects) > 1
        ],
        [
            {
                "image": path,
                "class": None if subjects.labels is None else subjects.classes[subjects.labels[i]],
                "representations": [
                    {**pair._asdict(), "attack": attack, **measured[pair, attack].of_image(i, subjects.classes)}
                    for pair in pairs
                    for attack in plan.attacks
                ],
            }
            for i, path in enumerate(subjects.paths)
        ],
        subjects.left_out,
        subjects.unreadable,
    )


@dataclass(frozen=True)
class _ByEpsilon:
    """One attack on one representation of N images, at E epsilons.

    Attributes:
        predicted: predicted class indices (E, N); None without classifiers.
        correct: correct classification (E, N), 0 or 1; None without classifiers.
        drift: 1 − cosine similarity (E, N).
        largest: E largest changes of any pixel.
    """

    predicted: Tensor | None
    correct: Tensor | None
    drift: Tensor
    largest: list[float]

    def of_image(self, index: int, classes: Sequence[str]) -> dict[str, Any]:
        """Return the predicted classes and the drifts of one image."""
        predicted = [] if self.predicted is None else [classes[number] for number in self.predicted[:, index]]
        return {"predicted": predicted, "drift": [round(value, 6) for value in self.drift[:, index].tolist()]}


def _by_epsilon(outcomes: Sequence[AttackOutcome], subjects: AttackedImages) -> _ByEpsilon:
    predicted, correct = [entry.predicted for entry in outcomes if entry.predicted is not None], None
    if predicted and subjects.labels is not None:
        correct = (torch.stack(predicted) == subjects.labels).double()
    drift = 1 - torch.stack([entry.similarity for entry in outcomes]).double()
    largest = [float(entry.largest.max()) for entry in outcomes]
    return _ByEpsilon(torch.stack(predicted) if predicted else None, correct, drift, largest)


def _curve(bootstrap: Bootstrap, pair: Pair, attack: str, values: _ByEpsilon) -> RobustnessCurve:
    drifts = [bootstrap.mean(row) for row in values.drift]
    if values.correct is None:
        return RobustnessCurve(pair, attack, [], drifts, values.largest, None, None)
    accuracies = [bootstrap.mean(row) for row in values.correct]
    robust = _mean_above_0(values.correct)
    relative = percentile_interval(bootstrap.ratio(robust, values.correct[0]))
    return RobustnessCurve(pair, attack, accuracies, drifts, values.largest, bootstrap.mean(robust), relative)


def _compare(
    bootstrap: Bootstrap, pair: Pair, attack: str, values: _ByEpsilon, reference: _ByEpsilon
) -> SupervisedComparison:
    drift = bootstrap.mean(_mean_above_0(values.drift) - _mean_above_0(reference.drift))
    if values.correct is None or reference.correct is None:
        return SupervisedComparison(pair, attack, None, None, drift)
    both = (values.correct, reference.correct)
    robust = [_mean_above_0(correct) for correct in both]
    ratios = [bootstrap.ratio(above, correct[0]) for above, correct in zip(robust, both, strict=True)]
    return SupervisedComparison(
        pair, attack, bootstrap.mean(robust[0] - robust[1]), percentile_interval(ratios[0] - ratios[1]), drift
    )


def _mean_above_0(values: Tensor) -> Tensor:
    """Return the mean over the epsilons above 0 for each image: (E, N) → (N,)."""
    return values[1:].mean(dim=0)

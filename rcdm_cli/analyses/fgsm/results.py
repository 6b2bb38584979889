"""What the outcomes of attacks say: curves over epsilon with intervals, and each representation against supervised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.analyses.fgsm.compute import Case, Outcome, Plan, Subjects
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import CONFIDENCE, NUM_RESAMPLES, Bootstrap, Interval, percentile_interval

REFERENCE = Pair("supervised", "backbone")
"""What every other representation is compared with, where it is among those asked."""


@dataclass(frozen=True)
class Curve:
    """One representation under one attack, a value for each epsilon.

    Attributes:
        pair: whose representation.
        attack: which attack.
        accuracy: of the classifier; empty where none was asked.
        drift: mean of 1 − cosine similarity of the representation to the one before.
        largest: largest change of any pixel of any image.
        robust: mean accuracy over the epsilons above 0; None without a classifier.
        kept: ``robust`` as a share of the accuracy at epsilon 0.
    """

    pair: Pair
    attack: str
    accuracy: list[Interval]
    drift: list[Interval]
    largest: list[float]
    robust: Interval | None
    kept: Interval | None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {
            "method": self.pair.method,
            "level": self.pair.level,
            "attack": self.attack,
            "accuracy": [one.as_json() for one in self.accuracy],
            "drift": [one.as_json() for one in self.drift],
            "largest_change": self.largest,
            "robust_accuracy": self.robust.as_json() if self.robust else None,
            "kept_accuracy": self.kept.as_json() if self.kept else None,
        }


@dataclass(frozen=True)
class Comparison:
    """A representation less ``REFERENCE`` on the same images under the same attack.

    Attributes:
        pair: which one.
        attack: which attack.
        robust: difference of ``Curve.robust``; None without a classifier.
        kept: difference of ``Curve.kept``.
        drift: difference of the mean drift over the epsilons above 0.
    """

    pair: Pair
    attack: str
    robust: Interval | None
    kept: Interval | None
    drift: Interval

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {
            "method": self.pair.method,
            "level": self.pair.level,
            "attack": self.attack,
            "robust_accuracy": self.robust.as_json() if self.robust else None,
            "kept_accuracy": self.kept.as_json() if self.kept else None,
            "drift": self.drift.as_json(),
        }


@dataclass(frozen=True)
class Robustness:
    """Every curve and comparison; intervals are over the images, with encoders and classifiers as they are."""

    curves: list[Curve]
    comparisons: list[Comparison]

    @property
    def largest_drift(self) -> tuple[float, Curve]:
        """The largest mean drift at any epsilon, and the curve that it is on."""
        return max(((one.value, curve) for curve in self.curves for one in curve.drift), key=lambda found: found[0])

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "interval": {"level": CONFIDENCE, "draws": NUM_RESAMPLES, "over": "images"},
            "results": [one.as_json() for one in self.curves],
            "against_supervised": [one.as_json() for one in self.comparisons],
        }


def summarise(outcomes: Mapping[Case, Outcome], subjects: Subjects, pairs: Sequence[Pair], plan: Plan) -> Robustness:
    """Curves of every pair and attack, and, from two images up, what sets each pair apart from ``REFERENCE``.

    Args:
        outcomes: of ``attack``.
        subjects: what was attacked.
        pairs: in the order wanted.
        plan: as given to ``attack``; its first epsilon is 0.
    """
    bootstrap = Bootstrap(len(subjects), plan.seed)
    curves, comparisons = [], []
    for name in plan.attacks:
        measured = {pair: _measure(outcomes, subjects, pair, name, plan) for pair in pairs}
        for pair, (right, drift, largest) in measured.items():
            curves.append(_curve(bootstrap, pair, name, right, drift, largest))
            # All resamples of one image are that image: no interval would leave a doubt.
            if REFERENCE in measured and pair != REFERENCE and len(subjects) > 1:
                comparisons.append(_compare(bootstrap, pair, name, measured[pair][:2], measured[REFERENCE][:2]))
    return Robustness(curves, comparisons)


def image_values(
    outcomes: Mapping[Case, Outcome], pairs: Sequence[Pair], plan: Plan, subjects: Subjects
) -> list[dict[str, Any]]:
    """For each image its class, and at each epsilon the class named and the drift, JSON-able."""
    values = []
    for i, path in enumerate(subjects.paths):
        found = []
        for pair in pairs:
            for name in plan.attacks:
                mine = [outcomes[Case(pair, name, epsilon)] for epsilon in plan.epsilons]
                found.append(
                    {
                        "method": pair.method,
                        "level": pair.level,
                        "attack": name,
                        "named": [subjects.classes[one.predicted[i]] for one in mine if one.predicted is not None],
                        "drift": [round(1 - float(one.similarity[i]), 6) for one in mine],
                    }
                )
        known = None if subjects.labels is None else subjects.classes[subjects.labels[i]]
        values.append({"image": path, "class": known, "representations": found})
    return values


_Measured = tuple[Tensor | None, Tensor, list[float]]


def _measure(outcomes: Mapping[Case, Outcome], subjects: Subjects, pair: Pair, name: str, plan: Plan) -> _Measured:
    """Rightly named or not (E, N), drift (E, N), and the largest changes (E)."""
    mine = [outcomes[Case(pair, name, epsilon)] for epsilon in plan.epsilons]
    named = [one.predicted for one in mine if one.predicted is not None]
    right = None
    if named and subjects.labels is not None:
        right = (torch.stack(named) == subjects.labels).double()
    drift = 1 - torch.stack([one.similarity for one in mine]).double()
    return right, drift, [float(one.largest.max()) for one in mine]


def _curve(
    bootstrap: Bootstrap, pair: Pair, name: str, right: Tensor | None, drift: Tensor, largest: list[float]
) -> Curve:
    drifts = [bootstrap.mean(row) for row in drift]
    if right is None:
        return Curve(pair, name, [], drifts, largest, None, None)
    accuracies = [bootstrap.mean(row) for row in right]
    robust = _over_epsilons(right)
    return Curve(
        pair,
        name,
        accuracies,
        drifts,
        largest,
        bootstrap.mean(robust),
        percentile_interval(bootstrap.ratio(robust, right[0])),
    )


def _compare(
    bootstrap: Bootstrap,
    pair: Pair,
    name: str,
    mine: tuple[Tensor | None, Tensor],
    other: tuple[Tensor | None, Tensor],
) -> Comparison:
    drift = bootstrap.mean(_over_epsilons(mine[1]) - _over_epsilons(other[1]))
    if mine[0] is None or other[0] is None:
        return Comparison(pair, name, None, None, drift)
    robust = [_over_epsilons(right) for right in (mine[0], other[0])]
    ratios = [bootstrap.ratio(above, right[0]) for above, right in zip(robust, (mine[0], other[0]), strict=True)]
    return Comparison(
        pair, name, bootstrap.mean(robust[0] - robust[1]), percentile_interval(ratios[0] - ratios[1]), drift
    )


def _over_epsilons(values: Tensor) -> Tensor:
    """Mean over the epsilons above 0, an image each: (E, N) → (N,)."""
    return values[1:].mean(dim=0)

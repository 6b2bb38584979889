"""Results of a probe: accuracies with confidence intervals, and differences between levels."""

from dataclasses import dataclass, field
from typing import Any

from rcdm_cli.analyses.as_json import as_json
from rcdm_cli.analyses.probe.probes import NEIGHBOURS
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.intervals import CONFIDENCE, NUM_RESAMPLES, Interval


@dataclass(frozen=True)
class IntervalOverSeeds(Interval):
    """Mean over resamples of the training images, on the same validation images, with a t interval.

    A resample contains about 63 % of the images, so that accuracies are usually a little lower.

    Attributes:
        values: value of each resample.
    """

    values: list[float]


@dataclass(frozen=True)
class AccuracyEstimate(Interval):
    """An accuracy or a difference of two accuracies for all training images.

    The interval is a bootstrap interval over the validation images.

    Attributes:
        over_seeds: mean over resamples of the training images.
    """

    over_seeds: IntervalOverSeeds


@dataclass(frozen=True)
class ProbedRepresentation:
    """Accuracies at one (method, level).

    Attributes:
        pair: (method, level).
        width: D.
        linear: accuracy of the linear classifier on the validation images.
        knn: accuracy of weighted k-NN on the validation images.
        strength: L2 strength of the linear classifier for all training images.
        strength_by_seed: L2 strength of each resample.
        by_class: accuracy of the linear classifier on the validation images of each class; None for no images.
    """

    pair: Pair
    width: int
    linear: AccuracyEstimate
    knn: AccuracyEstimate
    strength: float
    strength_by_seed: list[float]
    by_class: list[float | None]


@dataclass(frozen=True)
class LevelDifference:
    """Backbone minus projector of one method, paired by validation image and by resample."""

    method: str
    linear: AccuracyEstimate
    knn: AccuracyEstimate


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies of both classifiers at every (method, level).

    Attributes:
        classes: C class names, in the order of the class indices.
        counts: C numbers of validation images.
        training: number of training images.
        seeds: number of resamples of the training images.
        probed: one result per (method, level).
        differences: one difference per method with both levels.
        left_out: results of ``left_out`` for the training images and the validation images.
        unreadable: paths of images that were skipped.
    """

    classes: tuple[str, ...]
    counts: list[int]
    training: int
    seeds: int
    probed: list[ProbedRepresentation]
    differences: list[LevelDifference]
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all numbers."""
        return {
            "classes": list(self.classes),
            "validation_images_by_class": self.counts,
            "training_images": self.training,
            "validation_images": sum(self.counts),
            "left_out": self.left_out,
            "majority": max(self.counts) / sum(self.counts),
            "neighbours": NEIGHBOURS,
            "seeds": self.seeds,
            "interval": {
                "level": CONFIDENCE,
                "over_images": f"percentile bootstrap over the validation images, {NUM_RESAMPLES} resamples",
                "over_seeds": f"Student's t of the mean over {self.seeds} bootstrap resamples of the training images;"
                " the images that a resample leaves out select its L2 strength; the interval is cut at 0 and at 1, or"
                " at -1 and at 1 for a difference",
            },
            "results": as_json(self.probed),
            "differences": as_json(self.differences),
        }

"""Model of the results of ``rcdm probe``."""

from typing import Annotated, Literal

from pydantic import Field

from rcdm_cli.core.spec import Text
from rcdm_cli.report.schema import Count, IntervalValues, LeftOutValues, Number, PairValues, ResultsPart, RunResults


class SeedIntervalValues(IntervalValues):
    """Mean over resamples of the training images."""

    values: tuple[Number, ...]


class AccuracyValues(IntervalValues):
    """Accuracy, or difference of two accuracies."""

    over_seeds: SeedIntervalValues


class ProbedValues(PairValues):
    """Accuracies at one (method, level)."""

    width: Count
    linear: AccuracyValues
    knn: AccuracyValues
    strength: Number
    strength_by_seed: tuple[Number, ...]
    by_class: tuple[Number | None, ...]


class LevelDifferenceValues(ResultsPart):
    """Backbone minus projector of one method."""

    method: Text
    linear: AccuracyValues
    knn: AccuracyValues


class ProbeIntervals(ResultsPart):
    """Kinds of the confidence intervals."""

    level: Number
    over_images: Text
    over_seeds: Text


class ProbeResults(RunResults):
    """Results of ``rcdm probe``."""

    kind: Literal["probe"]
    classes: tuple[Text, ...]
    validation_images_by_class: tuple[Count, ...]
    training_images: Count
    validation_images: Count
    left_out: dict[Text, LeftOutValues]
    majority: Number
    neighbours: Count
    seeds: Count
    interval: ProbeIntervals
    results: Annotated[tuple[ProbedValues, ...], Field(min_length=1)]
    differences: tuple[LevelDifferenceValues, ...]

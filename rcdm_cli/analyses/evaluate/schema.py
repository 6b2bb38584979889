"""Model of the results of ``rcdm evaluate``."""

from typing import Annotated, Literal

from pydantic import Field

from rcdm_cli.core.spec import Text
from rcdm_cli.report.schema import (
    Count,
    GridValues,
    IntervalValues,
    LeftOutValues,
    Number,
    PairValues,
    ResultsPart,
    RunResults,
    Seed,
)

Numbers = tuple[Number, ...]


class FaithfulnessValues(PairValues):
    """Ranks and similarities of samples at one (method, level)."""

    mean_reciprocal_rank: IntervalValues
    mean_rank: IntervalValues
    similarity: IntervalValues


class DirectionValues(ResultsPart):
    """Correlation along groups of principal directions."""

    last: tuple[Count, ...]
    variance: Numbers
    correlation: Numbers


class DiversityValues(ResultsPart):
    """Diversity of the samples of one representation."""

    pixels: IntervalValues
    space: IntervalValues
    between: Number


class DistanceValues(ResultsPart):
    """Distances between two sets of images."""

    frechet: Number
    mmd: Number
    precision: Number
    recall: Number
    neighbours: Count


class InceptionScoreValues(ResultsPart):
    """Inception score over parts of the samples."""

    mean: Number
    deviation: Number
    splits: Count


class InceptionValues(ResultsPart):
    """Distances in the Inception space."""

    fid: Number
    kid: Number
    kid_subsets: Count
    kid_subset_size: Count
    mmd: Number
    precision: Number
    recall: Number
    neighbours: Count
    inception_score: InceptionScoreValues


class NearestValues(ResultsPart):
    """Nearest training images of the samples."""

    above: IntervalValues
    quantiles: Numbers
    similarity: tuple[Numbers, ...]
    image: tuple[tuple[Text, ...], ...]


class EvaluatedValues(FaithfulnessValues):
    """Quality of the samples at one (method, level)."""

    directions: DirectionValues
    knn: IntervalValues | None
    diversity: DiversityValues | None
    distances: DistanceValues
    inception: InceptionValues | None
    nearest: NearestValues | None


class DiversityDifferenceValues(ResultsPart):
    """Projector minus backbone of one method."""

    method: Text
    pixels: IntervalValues
    space: IntervalValues


class CopyThreshold(ResultsPart):
    """Similarity above which a sample is similar to a training image."""

    below: Number
    expected_above: Number
    similarity: Number


class TrainingImagesValues(ResultsPart):
    """Comparison of training images with the images."""

    compared: Count
    distances: DistanceValues
    inception: InceptionValues | None
    bar: CopyThreshold
    levels: Numbers
    quantiles_of_images: Numbers


class OverImages(ResultsPart):
    """Kind of the confidence intervals."""

    level: Number
    draws: Count
    over: Text


class EvaluateResults(RunResults):
    """Results of ``rcdm evaluate``."""

    kind: Literal["evaluate"]
    images: Annotated[Count, Field(ge=1)]
    bank_images: Count
    samples: Count
    space: PairValues
    interval: OverImages
    results: Annotated[tuple[EvaluatedValues, ...], Field(min_length=1)]
    differences: tuple[DiversityDifferenceValues, ...]
    training_images: TrainingImagesValues | None
    left_out_of_knn: dict[Text, LeftOutValues]
    names: tuple[Text, ...]
    seeds: tuple[tuple[Seed, ...], ...]
    nearest_samples: GridValues | None = None

"""Model of the results of ``rcdm invariance``."""

from typing import Annotated, Literal

from pydantic import Field

from rcdm_cli.core.spec import Text
from rcdm_cli.report.schema import Count, GridValues, IntervalValues, Number, PairValues, ResultsPart, RunResults, Seed


class AugmentationValues(ResultsPart):
    """Augmentation and its strengths."""

    name: Text
    what: Text
    strengths: tuple[Text, ...]


class SimilarityValues(ResultsPart):
    """Similarity of representations before and after an augmentation."""

    cosine: IntervalValues
    relative: IntervalValues | None


class StrengthValues(SimilarityValues):
    """Similarity at one strength."""

    strength: Text


class AugmentedValues(ResultsPart):
    """Similarity under one augmentation."""

    name: Text
    mean: SimilarityValues
    strengths: tuple[StrengthValues, ...]


class InvarianceRepresentation(PairValues):
    """Similarities at one (method, level)."""

    similarity_of_different_images: IntervalValues
    augmentations: tuple[AugmentedValues, ...]


class InvarianceDifference(IntervalValues):
    """Projector minus backbone of one method under one augmentation."""

    method: Text
    augmentation: Text


class ChangeValues(PairValues):
    """Mean absolute change of the samples of one (method, level) under each augmentation."""

    mean_absolute: tuple[Number, ...]


class BeforeAndAfterValues(ResultsPart):
    """Samples before and after the augmentations."""

    rows: tuple[Text, ...]
    seeds: tuple[tuple[Seed, ...], ...]
    change: tuple[ChangeValues, ...]


class MethodGridValues(GridValues):
    """Image grid of one method."""

    method: Text


class HeatMapFiles(ResultsPart):
    """Files of the heat maps."""

    relative: Text
    cosine: Text


class InvarianceResults(RunResults):
    """Results of ``rcdm invariance``."""

    kind: Literal["invariance"]
    paths: tuple[Text, ...]
    images: Count
    size: Count
    background_share: Number
    augmentations: tuple[AugmentationValues, ...]
    representations: Annotated[tuple[InvarianceRepresentation, ...], Field(min_length=1)]
    projector_minus_backbone: tuple[InvarianceDifference, ...]
    samples: BeforeAndAfterValues | None = None
    grids: tuple[MethodGridValues, ...]
    heat_maps: HeatMapFiles

"""Model of the results of ``rcdm visualize``."""

from typing import Annotated, Literal

from pydantic import Field

from rcdm_cli.core.spec import Text
from rcdm_cli.report.schema import Count, DistanceResults, Number, PairValues, ResultsPart, Seed


class VisualizeSummary(PairValues):
    """Means over the images at one (method, level)."""

    mean_reciprocal_rank: Number
    mean_similarity: Number
    mean_spread: Number | None


class VisualizedRepresentation(PairValues):
    """Samples of one image at one (method, level)."""

    similarity: Annotated[tuple[Number, ...], Field(min_length=1)]
    rank: Annotated[tuple[Count, ...], Field(min_length=1)]
    mean_spread: Number | None
    samples: tuple[Text, ...]
    std_map: Text | None


class VisualizedImage(ResultsPart):
    """Samples of one image."""

    image: Text
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    representations: Annotated[tuple[VisualizedRepresentation, ...], Field(min_length=1)]
    file: Text | None


class VisualizeResults(DistanceResults):
    """Results of ``rcdm visualize``."""

    kind: Literal["visualize"]
    paths: tuple[Text, ...]
    inputs: Literal["images", "vectors"] = "images"
    summary: Annotated[tuple[VisualizeSummary, ...], Field(min_length=1)]
    images: Annotated[tuple[VisualizedImage, ...], Field(min_length=1)]
    map_top: Number | None
    images_on_page: Annotated[Count, Field(ge=1)]

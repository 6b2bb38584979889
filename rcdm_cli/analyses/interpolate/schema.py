"""Model of the results of ``rcdm interpolate``."""

from typing import Annotated, Literal

from pydantic import Field

from rcdm_cli.core.spec import Text
from rcdm_cli.report.schema import Count, DistanceResults, GridValues, Number, PairValues, ResultsPart, Seed

Numbers = tuple[Number, ...]


class InterpolateSummary(PairValues):
    """Means over the pairs of images at one (method, level)."""

    mean_distance: Number
    mean_length: Number
    mean_sample_length: Number
    mean_similarity: Number
    similarity_by_position: Numbers
    to_a_by_position: Numbers
    to_b_by_position: Numbers


class InterpolatedRepresentation(PairValues):
    """Path between two images at one (method, level)."""

    distance: Number
    length: Number
    similarity: tuple[Numbers, ...]
    to_a: tuple[Numbers, ...]
    to_b: tuple[Numbers, ...]
    sample_length: Numbers


class InterpolatedImages(ResultsPart):
    """Path between two images."""

    a: Text
    b: Text
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    representations: tuple[InterpolatedRepresentation, ...]
    grid: GridValues
    animation: Text = ""


class InterpolateResults(DistanceResults):
    """Results of ``rcdm interpolate``."""

    kind: Literal["interpolate"]
    paths: tuple[tuple[Text, Text], ...]
    inputs: Literal["images", "vectors"] = "images"
    images_given: Count
    path: Text
    positions: Annotated[Numbers, Field(min_length=1)]
    summary: Annotated[tuple[InterpolateSummary, ...], Field(min_length=1)]
    image_pairs: Annotated[tuple[InterpolatedImages, ...], Field(min_length=1)]

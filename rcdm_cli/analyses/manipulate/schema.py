"""Model of the results of ``rcdm manipulate``."""

from typing import Annotated, Literal

from pydantic import Field

from rcdm_cli.core.spec import Text
from rcdm_cli.report.schema import Count, DistanceResults, GridValues, Number, PairValues, ResultsPart, Seed

Numbers = Annotated[tuple[Number, ...], Field(min_length=1)]


class RuleValues(ResultsPart):
    """Rule that selects the dimensions."""

    nearest: Count
    threshold: Number | None
    share: Number


class NeighbourValues(ResultsPart):
    """Nearest neighbour of the source."""

    key: Text
    similarity: Number


class ManipulatedRowValues(ResultsPart):
    """Similarities of the samples of one row."""

    row: Literal["source", "without", "swapped"]
    similarity: Numbers
    to_source: Numbers
    to_target: Numbers


class ManipulatedValues(PairValues):
    """Manipulation at one (method, level)."""

    width: Count
    threshold: Number
    dimensions: tuple[Count, ...]
    active_in: tuple[Count, ...]
    energy: Number
    neighbours: tuple[NeighbourValues, ...]
    rows: tuple[ManipulatedRowValues, ...]
    grid: GridValues


class ManipulatePaths(ResultsPart):
    """Paths of the images."""

    source: Text
    target: Text
    neighbours: Text


class ManipulateResults(DistanceResults):
    """Results of ``rcdm manipulate``."""

    kind: Literal["manipulate"]
    source: Text
    target: Text
    paths: ManipulatePaths
    rule: RuleValues
    bank: Count
    seeds: tuple[Seed, ...]
    representations: Annotated[tuple[ManipulatedValues, ...], Field(min_length=1)]

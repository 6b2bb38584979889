"""Model of the results of ``rcdm tune``."""

from typing import Annotated, Literal

from pydantic import Field

from rcdm_cli.core.spec import Text
from rcdm_cli.report.schema import Count, IntervalValues, Number, PairValues, ResultsPart, RunResults, Seed


class SamplingValues(ResultsPart):
    """Sampler, steps and guidance scale."""

    sampler: Text
    steps: Count
    guidance: Number


class SamplingQualityValues(PairValues):
    """Quality of the samples at one (method, level)."""

    mean_reciprocal_rank: IntervalValues
    mean_rank: IntervalValues
    similarity: IntervalValues
    frechet: Number


class TrialValues(SamplingValues):
    """Sampling settings and their quality."""

    calls: Count
    shortfall: Number
    representations: Annotated[tuple[SamplingQualityValues, ...], Field(min_length=1)]


class TuneResults(RunResults):
    """Results of ``rcdm tune``."""

    kind: Literal["tune"]
    tuned_bundle: Text
    model_sha256: Text
    images_sha256: Text
    images: Count
    margin: Number
    chosen: SamplingValues
    best: SamplingValues
    tried: Annotated[tuple[TrialValues, ...], Field(min_length=1)]
    seeds: dict[Text, Seed]

"""Model of the results of ``rcdm fgsm``."""

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

Attack = Literal["fgsm", "pgd", "drift"]


class AttackSettings(ResultsPart):
    """Settings of ``rcdm fgsm``."""

    sampler: Text
    steps: Count
    guidance: Number
    data: Text
    split: Text | None
    probe: Text | None
    probe_split: Text | None
    ignored_classes: tuple[Text, ...]
    attacks: Annotated[tuple[Attack, ...], Field(min_length=1)]
    attack_steps: Count
    epsilons: Annotated[tuple[Number, ...], Field(min_length=1)]
    samples: Count


class CurveValues(PairValues):
    """One representation under one attack, one value per epsilon."""

    attack: Attack
    accuracy: tuple[IntervalValues, ...]
    drift: Annotated[tuple[IntervalValues, ...], Field(min_length=1)]
    largest_change: Annotated[tuple[Number, ...], Field(min_length=1)]
    robust_accuracy: IntervalValues | None
    relative_accuracy: IntervalValues | None


class ComparisonValues(PairValues):
    """One representation minus the supervised backbone."""

    attack: Attack
    robust_accuracy: IntervalValues | None
    relative_accuracy: IntervalValues | None
    drift: IntervalValues


class AttackedRepresentationValues(PairValues):
    """One image at one (method, level) under one attack, one value per epsilon."""

    attack: Attack
    predicted: tuple[Text, ...]
    drift: tuple[Number, ...]


class AttackedImageValues(ResultsPart):
    """One attacked image."""

    image: Text
    class_: Text | None = Field(alias="class")
    representations: tuple[AttackedRepresentationValues, ...]


class AttackedGridValues(GridValues):
    """Samples of one attacked image."""

    image: Text
    attack: Attack
    seeds: tuple[Seed, ...]


class OverImagesInterval(ResultsPart):
    """Kind of the confidence intervals."""

    level: Number
    draws: Count
    over: Text


class FgsmResults(RunResults):
    """Results of ``rcdm fgsm``."""

    kind: Literal["fgsm"]
    settings: AttackSettings  # type: ignore[assignment]
    images_attacked: Count
    left_out: LeftOutValues | None
    interval: OverImagesInterval
    results: Annotated[tuple[CurveValues, ...], Field(min_length=1)]
    against_supervised: tuple[ComparisonValues, ...]
    images: tuple[AttackedImageValues, ...]
    grids: tuple[AttackedGridValues, ...]

"""Models of ``results.json``: the parts that the results of several analyses share.

An analysis has a model of its own in ``schema.py``. Every number is finite, every list and text is bounded, and unknown
keys are refused, so that a section is built from validated values.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

from rcdm_cli.core.levels import Level
from rcdm_cli.core.spec import JsonObject, Spec, Text

Number = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**7)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Setting = Text | int | float | bool | None


class ResultsPart(Spec):
    """Part of the results: types are not converted."""

    model_config = ConfigDict(strict=True)


class IntervalValues(ResultsPart):
    """Value and confidence interval."""

    value: Number
    low: Number
    high: Number


class PairValues(ResultsPart):
    """Values at one (method, level)."""

    method: Text
    level: Level


class GridGroupValues(ResultsPart):
    """Neighbouring images of a row; None is an empty cell."""

    label: Text
    images: tuple[Text | None, ...]


class GridRowValues(ResultsPart):
    """Row of an image grid."""

    label: Text
    groups: tuple[GridGroupValues, ...]


class GridValues(ResultsPart):
    """Files of an image grid."""

    figure: Text
    rows: tuple[GridRowValues, ...]


class LeftOutValues(ResultsPart):
    """Images that an analysis with classes leaves out, by reason."""

    images: Count
    left_out: Count
    without_class: Count
    ignored: Count
    unknown: dict[Text, Count]


class TrainingDistanceValues(PairValues):
    """Distance of one image from the training images."""

    image: Text
    distance: Number
    percentile: Number
    far: bool


class RunResults(ResultsPart):
    """Results of every analysis: versions, hashes and settings.

    Attributes:
        rcdm: version that wrote the results.
        bundle: name of the bundle, if the encoders come from a bundle.
        encoder: reference of the encoder, if no bundle was used.
        manifest_sha256: hash of the bundle's manifest.
        backend: backend of the denoiser.
        precision: precision of the denoiser.
        seed: seed of the run.
        settings: settings of the run.
        unreadable: images that were skipped.
        files: SHA-256 of each image file of the run.
        request: options and inputs of the command.
    """

    rcdm: Text
    bundle: Text = ""
    encoder: Text = ""
    manifest_sha256: Text = ""
    backend: Text = ""
    precision: Text = ""
    seed: Seed
    settings: dict[Text, Setting | tuple[Setting, ...]] = {}
    unreadable: tuple[Text, ...] = ()
    files: dict[Text, Text] = {}
    request: JsonObject = {}


class DistanceResults(RunResults):
    """Results with the distance of each image from the training images, for a bundle with statistics."""

    training_distance: tuple[TrainingDistanceValues, ...] = ()
    far_images: tuple[Text, ...] = ()
    far_percentile: Number = 0.0

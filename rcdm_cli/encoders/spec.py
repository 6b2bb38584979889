"""What an encoder is, as data: trunk, head and preprocessing; it travels with the weights."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rcdm_cli.spec import Spec

Level = Literal["backbone", "projector"]
LEVELS: tuple[Level, ...] = ("backbone", "projector")


class Preprocessing(Spec):
    """How a photo in [-1, 1] becomes the trunk's input.

    The photo is centre-cropped to ``size`` × ``size`` pixels, mapped to [0, 1], and standardised per RGB
    channel as ``(x - mean) / std``. ``mean = std = 0.5`` keeps [-1, 1], as the published RCDM does.
    """

    size: int = Field(ge=16, le=2048)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @model_validator(mode="after")
    def _positive(self) -> "Preprocessing":
        if min(self.std) <= 0:
            raise ValueError("every std must be above 0")
        return self


class HeadLayer(Spec):
    """One layer of a projector: linear, then optionally batch norm, then optionally an activation."""

    width: int = Field(ge=1)
    bias: bool = True
    norm: Literal["batch", "none"] = "none"
    activation: Literal["relu", "gelu", "none"] = "none"


class EncoderSpec(Spec):
    """A trunk (any timm model), its pooled width, the projector head and the preprocessing.

    ``trunk_options`` go to ``timm.create_model`` as they are; ``pool`` is timm's ``global_pool``, or None
    for the model's own. An empty ``head`` means that the encoder has no projector level.
    """

    method: str
    trunk: str
    trunk_options: dict[str, Any] = {}
    pool: str | None = None
    width: int = Field(ge=1)
    head: tuple[HeadLayer, ...] = ()
    preprocessing: Preprocessing
    origin: str = ""
    licence: str = ""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that this encoder has, backbone first."""
        return LEVELS if self.head else ("backbone",)

    def width_at(self, level: Level) -> int:
        """Width D of the representation at ``level``."""
        return self.width if level == "backbone" else self.head[-1].width

"""What an encoder is, as data: trunk, head and preprocessing; it travels with the weights."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rcdm_cli.core.levels import LEVELS, Level
from rcdm_cli.core.spec import Spec

METHOD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""A method's name is a part of file names."""


class Preprocessing(Spec):
    """How an image in [-1, 1] becomes the trunk's input.

    The image is centre-cropped to ``size`` × ``size`` pixels, mapped to [0, 1], and standardised per RGB
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
    """One layer of a projector: linear, then optionally batch norm, then optionally an activation.

    ``affine`` is whether the batch norm has a weight and a bias of its own.
    """

    width: int = Field(ge=1)
    bias: bool = True
    norm: Literal["batch", "none"] = "none"
    affine: bool = True
    activation: Literal["relu", "gelu", "tanh", "none"] = "none"


class EncoderSpec(Spec):
    """A trunk (any timm model), its pooled width, the projector head and the preprocessing.

    An encoder from an ONNX file has ``trunk = "onnx"`` and the widths of the graph's outputs in ``onnx_widths``; its
    graph holds trunk and head in one.

    Attributes:
        method: the name that commands and files know it by.
        trunk: timm's name of the architecture.
        trunk_options: go to ``timm.create_model`` as they are.
        pool: timm's ``global_pool``; None is the model's own.
        stem_padding: None keeps the trunk's own stem. A number gives a ResNet the stem for small images: a 3×3
            convolution of stride 1 with this padding, and no max pooling (Chen et al. 2020, arXiv:2002.05709, B.9).
        width: of the backbone's representation.
        head: layers of the projector; none where the encoder has no projector level.
        onnx_widths: of the backbone's and, where there is one, the projector's output.
        preprocessing: how images become the trunk's input.
        origin: of the images or the weights.
        licence: of the same.
    """

    method: str = Field(pattern=METHOD_PATTERN)
    trunk: str
    trunk_options: dict[str, Any] = {}
    pool: str | None = None
    stem_padding: int | None = Field(default=None, ge=0)
    width: int = Field(ge=1)
    head: tuple[HeadLayer, ...] = ()
    onnx_widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), max_length=2)
    preprocessing: Preprocessing
    origin: str = ""
    licence: str = ""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that this encoder has, backbone first."""
        return LEVELS if self.head or len(self.onnx_widths) == 2 else ("backbone",)

    def width_at(self, level: Level) -> int:
        """Width D of the representation at ``level``."""
        if level == "backbone":
            return self.width
        return self.onnx_widths[1] if self.onnx_widths else self.head[-1].width

"""Spec of an encoder: trunk, head and preprocessing, stored with the weights."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcdm_cli.core.levels import LEVELS, Level
from rcdm_cli.core.spec import Spec
from rcdm_cli.encoders.trunk_options import TRUNK_NAME_PATTERN, TrunkOptions, TrunkPool

METHOD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Pattern of method names, which are parts of file names."""

MAX_WIDTH = 2**20
"""Maximum width of a representation or of a layer of a head."""


class Preprocessing(Spec):
    """Preprocessing of images for the trunk.

    The image is centre-cropped to ``size`` × ``size`` pixels, mapped to [0, 1], and standardised per RGB channel as
    ``(x - mean) / std``. ``mean = std = 0.5`` gives the range [-1, 1] of the published RCDM.
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
    """Layer of a projector head: linear, optional batch norm, optional activation.

    Attributes:
        width: width of the output.
        bias: whether the linear layer has a bias.
        norm: normalisation after the linear layer.
        affine: whether the batch norm has weight and bias.
        activation: activation at the end of the layer.
    """

    width: int = Field(ge=1, le=MAX_WIDTH)
    bias: bool = True
    norm: Literal["batch", "none"] = "none"
    affine: bool = True
    activation: Literal["relu", "gelu", "tanh", "none"] = "none"


class EncoderSpec(Spec):
    """Spec of an encoder.

    Attributes:
        method: name of the encoder in commands and files.
        trunk: timm's name of the trunk; ``onnx`` for a graph that contains trunk and head.
        trunk_options: architecture options of the timm model.
        pool: timm's ``global_pool``; None uses the model's default.
        stem_padding: padding of a ResNet's stem for small images: a 3×3 convolution of stride 1 without max pooling
            (Chen et al. 2020, arXiv:2002.05709, B.9). None keeps the stem of the trunk.
        width: width of the backbone representation.
        head: layers of the projector head; empty for an encoder without projector level.
        onnx_widths: widths of the outputs of an ONNX graph: backbone and optional projector.
        preprocessing: preprocessing of images.
        origin: origin of the images or the weights.
        licence: licence of the images or the weights.
    """

    method: str = Field(pattern=METHOD_PATTERN)
    trunk: str = Field(pattern=TRUNK_NAME_PATTERN, max_length=100)
    trunk_options: TrunkOptions = {}
    pool: TrunkPool | None = None
    stem_padding: int | None = Field(default=None, ge=0, le=16)
    width: int = Field(ge=1, le=MAX_WIDTH)
    head: tuple[HeadLayer, ...] = Field(default=(), max_length=64)
    onnx_widths: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...] = Field(default=(), max_length=2)
    preprocessing: Preprocessing
    origin: str = ""
    licence: str = ""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of the encoder, backbone first."""
        return LEVELS if self.head or len(self.onnx_widths) == 2 else ("backbone",)

    def width_at(self, level: Level) -> int:
        """Return the width D of the representation at ``level``."""
        if level == "backbone":
            return self.width
        return self.onnx_widths[1] if self.onnx_widths else self.head[-1].width

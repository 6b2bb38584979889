"""Spec of an encoder: trunk, head and preprocessing, stored with the weights."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcdm_cli.core.levels import BOTH, LEVELS, Level
from rcdm_cli.core.spec import Method, Spec, Text
from rcdm_cli.encoders.trunk_options import TRUNK_NAME_PATTERN, TrunkOptions, TrunkPool

HEAD_PREFIX = "projector."
"""Prefix of the names of the projector head's layers."""

MAX_GRID = 256
"""Maximum number of patches on each side of an image."""

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


class LayerSpec(Spec):
    """Layer of an encoder whose pooled output is a level.

    Attributes:
        name: path of the module in the trunk, ``projector.`` and the path of the module in the projector head, or name
            of an output of an ONNX graph.
        width: width of the pooled output.
        axes: pooled axes of the output: (2, 3) for (B, D, H, W), (1, 2) for (B, H, W, D), (1,) for tokens (B, N, D),
            (2,) for (B, D, N); empty for (B, D), which is not pooled.
        pool: average or maximum over ``axes``, or the first token.
        prefix_tokens: number of class and register tokens that the average and the maximum leave out.
        after_backbone: whether the layer is deeper than the backbone, such as the layers of the projector head.
    """

    name: Level
    width: int = Field(ge=1, le=MAX_WIDTH)
    axes: tuple[int, ...] = ()
    pool: Literal["avg", "max", "token"] = "avg"
    prefix_tokens: int = Field(default=0, ge=0)
    after_backbone: bool = False

    @property
    def in_head(self) -> bool:
        """Whether the layer is a module of the projector head."""
        return self.name.startswith(HEAD_PREFIX)

    @model_validator(mode="after")
    def _is_a_layer(self) -> "LayerSpec":
        if self.name in (*LEVELS, BOTH):
            raise ValueError(f"{self.name} is not the name of a layer")
        if self.axes not in ((), (1,), (2,), (1, 2), (2, 3)):
            raise ValueError("axes must be (), (1), (2), (1, 2) or (2, 3)")
        if len(self.axes) != 1 and (self.prefix_tokens or self.pool == "token"):
            raise ValueError("only tokens have a class token or prefix tokens")
        return self


def multispectral(channels: int) -> str:
    """Return the reason why an encoder with ``channels`` input channels is refused."""
    return (
        f"it takes images with {channels} channels (multispectral images); images are read with 3 channels or as grey"
    )


class EncoderSpec(Spec):
    """Spec of an encoder.

    Attributes:
        method: name of the encoder in commands and files.
        trunk: timm's name of the trunk; ``onnx`` for a graph that contains trunk and head.
        trunk_options: architecture options of the timm model.
        pool: timm's ``global_pool``; None uses the model's default.
        stem_padding: padding of a ResNet's stem for small images: a 3×3 convolution of stride 1 without max pooling
            (Chen et al. 2020, arXiv:2002.05709, B.9). None keeps the stem of the trunk.
        norm_eps: epsilon of the trunk's layer norms. None keeps the epsilon of the trunk.
        width: width of the backbone representation.
        head: layers of the projector head; empty for an encoder without projector level.
        layers: layers whose pooled outputs are levels, in the order of the forward pass.
        onnx_widths: widths of the outputs of an ONNX graph: backbone and optional projector.
        preprocessing: preprocessing of images.
        origin: origin of the images or the weights.
        licence: licence of the images or the weights.
    """

    method: Method
    trunk: str = Field(pattern=TRUNK_NAME_PATTERN, max_length=100)
    trunk_options: TrunkOptions = {}
    pool: TrunkPool | None = None
    stem_padding: int | None = Field(default=None, ge=0, le=16)
    norm_eps: float | None = Field(default=None, gt=0, le=0.1)
    width: int = Field(ge=1, le=MAX_WIDTH)
    head: tuple[HeadLayer, ...] = Field(default=(), max_length=64)
    layers: tuple[LayerSpec, ...] = Field(default=(), max_length=256)
    onnx_widths: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...] = Field(default=(), max_length=2)
    preprocessing: Preprocessing
    origin: Text = ""
    licence: Text = ""

    @model_validator(mode="after")
    def _layers_differ(self) -> "EncoderSpec":
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise ValueError(f"each layer may occur once; given {', '.join(names)}")
        return self

    @property
    def widths(self) -> dict[Level, int]:
        """Width D of the representation at each level, by depth: from the input of the encoder to its output."""
        widths = {layer.name: layer.width for layer in self.layers if not layer.after_backbone}
        widths["backbone"] = self.width
        widths |= {layer.name: layer.width for layer in self.layers if layer.after_backbone}
        if self.head or len(self.onnx_widths) == 2:
            widths["projector"] = self.onnx_widths[1] if self.onnx_widths else self.head[-1].width
        return widths

    @model_validator(mode="after")
    def _bounded_patches(self) -> "EncoderSpec":
        size = max(self.preprocessing.size, self.trunk_options.get("img_size", 0))
        if size > MAX_GRID * (patch := self.trunk_options.get("patch_size", MAX_GRID)):
            raise ValueError(f"{size} pixels have more than {MAX_GRID} patches of {patch} pixels on each side")
        return self

    @model_validator(mode="after")
    def _supported_channels(self) -> "EncoderSpec":
        if self.channels not in (1, 3):
            raise ValueError(multispectral(self.channels))
        means, stds = self.preprocessing.mean, self.preprocessing.std
        if self.channels == 1 and (len(set(means)) > 1 or len(set(stds)) > 1):
            raise ValueError("grey images need one mean and one std")
        return self

    @property
    def channels(self) -> int:
        """Number of channels of the trunk's input: 3 for colour images, 1 for grey images."""
        return self.trunk_options.get("in_chans", 3)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of the encoder by depth."""
        return tuple(self.widths)

    def width_at(self, level: Level) -> int:
        """Return the width D of the representation at ``level``."""
        return self.widths[level]

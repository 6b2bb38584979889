"""Image → representation, at every level that the encoder has."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors, write_tensors
from rcdm_cli.core.levels import Level
from rcdm_cli.encoders.heads import build_head
from rcdm_cli.encoders.onnx_trunk import OnnxTrunk
from rcdm_cli.encoders.spec import EncoderSpec
from rcdm_cli.encoders.trunks import build_trunk, trunk_width

KIND = "encoder"


class Encoder(nn.Module):
    """A trunk, and the projector head where the method has one.

    Gradients flow from the representation to the image, unless the encoder is an ONNX graph: an attack needs them.

    Args:
        spec: what it is.
        trunk: of that spec, where it is built already; else one with random weights is built.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = trunk or _build(spec)
        self.head = build_head(spec.width, spec.head) if spec.head else None
        self.register_buffer("mean", torch.tensor(spec.preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [-1, 1] to the trunk's input (B, 3, size, size).

        Images of another size are resized (bicubic, antialiased), so that images of a smaller denoiser
        can be encoded again.
        """
        size = self.spec.preprocessing.size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        return ((images + 1) / 2 - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """All levels, in the order of ``spec.levels``: (B, 3, H, W) in [-1, 1] → one (B, D) a level."""
        backbone = self.trunk(self.preprocess(images))
        if isinstance(backbone, tuple):  # an ONNX graph gives every level
            return backbone
        return (backbone,) if self.head is None else (backbone, self.head(backbone))

    def encode(self, images: Tensor, level: Level) -> Tensor:
        """The representation ``h`` (B, D) of images (B, 3, H, W) in [-1, 1].

        Raises:
            InputError: the encoder has no such level.
        """
        index = level_index(self.spec, level)
        h: Tensor = self(images)[index]
        return h


def _build(spec: EncoderSpec) -> nn.Module:
    if spec.onnx_widths:
        return OnnxTrunk()
    trunk = build_trunk(spec.trunk, spec.trunk_options, spec.pool, spec.stem_padding)
    if (width := trunk_width(trunk)) != spec.width:
        raise InputError(f"The trunk {spec.trunk!r} is {width} wide, but its spec says {spec.width}.")
    return trunk


def level_index(spec: EncoderSpec, level: Level) -> int:
    """Where ``level`` stands in ``spec.levels``.

    Raises:
        InputError: the encoder has no such level; names those it has.
    """
    if level not in spec.levels:
        raise InputError(
            f"{spec.method!r} has no {level} level: no head came with its trunk. "
            f"It has: {', '.join(spec.levels)}. Give one of these as the level."
        )
    return spec.levels.index(level)


def save_encoder(encoder: Encoder, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights and spec as one safetensors file; floating-point weights in ``dtype``."""
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in encoder.state_dict().items()
    }
    write_tensors(path, tensors, {"kind": KIND, "spec": encoder.spec.model_dump_json()})


def holds_encoder(path: Path, encoder: Encoder) -> bool:
    """Whether ``path`` holds this encoder, bit by bit: the same spec and the same tensors.

    Raises:
        InputError: as ``read_encoder_spec``.
    """
    # As JSON, in which tuples and lists of a trunk's options are one.
    if read_encoder_spec(path).model_dump_json() != encoder.spec.model_dump_json():
        return False
    held, own = read_tensors(path), encoder.state_dict()
    return held.keys() == own.keys() and all(torch.equal(held[name], own[name].cpu()) for name in held)


def read_encoder_spec(path: Path) -> EncoderSpec:
    """The spec of an encoder file, without its weights.

    Raises:
        InputError: not there, not safetensors, or not an encoder of this program.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise InputError(
            f"{path} is a safetensors file, but not an encoder that rcdm wrote (kind {metadata.get('kind')})."
        )
    return EncoderSpec.parse_json(metadata["spec"], str(path))


def load_encoder(path: Path) -> Encoder:
    """Read an encoder for use: float32, on the CPU, in evaluation mode.

    Raises:
        InputError: as ``read_encoder_spec``, or the tensors are not those of the spec.
    """
    encoder = Encoder(read_encoder_spec(path))
    try:
        encoder.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise InputError(f"The weights in {path} do not fit its own spec: {error}") from error
    return encoder.float().eval().requires_grad_(False)

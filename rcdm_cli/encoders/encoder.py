"""Encoder: image → representation at every level, and encoder files."""

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors, write_tensors
from rcdm_cli.core.levels import LEVELS, Level, missing_level_message
from rcdm_cli.encoders.heads import build_head
from rcdm_cli.encoders.inferred import Inferred
from rcdm_cli.encoders.layers import pool, pooled_outputs
from rcdm_cli.encoders.spec import HEAD_PREFIX, EncoderSpec, LayerSpec
from rcdm_cli.encoders.trunk_options import block_count
from rcdm_cli.encoders.trunks import OnnxTrunk, build_trunk, trunk_width

KIND = "encoder"

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey values (ITU-R BT.601)."""


class Encoder(nn.Module):
    """Trunk and optional projector head.

    Gradients flow from the representation to the image, unless the trunk is an ONNX graph.

    Args:
        spec: spec of the encoder.
        trunk: trunk of the spec; None builds a trunk with random weights.
    """

    mean: Tensor
    std: Tensor
    reference: str = ""
    """Reference that ``open_encoder`` opened."""
    inferred: Inferred = MappingProxyType({})
    """Properties that were inferred from a file of another project."""

    def __init__(self, spec: EncoderSpec, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = trunk or _build(spec)
        self.head = build_head(spec.width, spec.head) if spec.head else None
        self._layers = self._modules_of(spec)
        self.register_buffer(
            "mean", torch.tensor(spec.preprocessing.mean[: spec.channels]).view(1, -1, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(spec.preprocessing.std[: spec.channels]).view(1, -1, 1, 1), persistent=False
        )

    def preprocess(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [-1, 1] to the trunk's input (B, C, size, size).

        For C = 1, the channels are combined with the weights of ITU-R BT.601, which does not change grey images. Images
        of another size, such as samples of a smaller denoiser, are resized (bicubic, antialiased).
        """
        size = self.spec.preprocessing.size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        values = (images + 1) / 2
        if self.spec.channels == 1:
            values = (values * values.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return (values - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, 3, H, W) in [-1, 1]: one (B, D) per level, in the order of ``spec.levels``."""
        x = self.preprocess(images)
        if isinstance(self.trunk, OnnxTrunk):
            return self._onnx_levels(self.trunk, x)
        with pooled_outputs(self._layers) as found:
            found["backbone"] = self.trunk(x)
            if self.head is not None:
                found["projector"] = self.head(found["backbone"])
        return tuple(found[level] for level in self.spec.levels)

    def _onnx_levels(self, trunk: OnnxTrunk, x: Tensor) -> tuple[Tensor, ...]:
        layers, own = self.spec.layers, len(self.spec.onnx_widths)
        outputs = trunk(x, [*trunk.outputs[:own], *(layer.name for layer in layers)])
        found = dict(zip(LEVELS, outputs[:own], strict=False))
        found |= {layer.name: pool(layer, output) for layer, output in zip(layers, outputs[own:], strict=True)}
        return tuple(found[level] for level in self.spec.levels)

    def encode(self, images: Tensor, level: Level) -> Tensor:
        """Return the representation ``h`` (B, D) of images (B, 3, H, W) in [-1, 1].

        Raises:
            InputError: the encoder does not have the level.
        """
        index = level_index(self.spec, level)
        h: Tensor = self(images)[index]
        return h

    def with_spec(self, **changes: Any) -> "Encoder":
        """Return an encoder with the same weights and a spec with other values.

        Raises:
            InputError: the encoder does not have a layer of the spec.
        """
        encoder = copy(self)
        encoder.spec = self.spec.model_copy(update=changes)
        encoder._layers = encoder._modules_of(encoder.spec)
        return encoder

    def _modules_of(self, spec: EncoderSpec) -> dict[LayerSpec, nn.Module]:
        if isinstance(self.trunk, OnnxTrunk):
            return {}
        found = {}
        for layer in spec.layers:
            root = self.head if layer.in_head else self.trunk
            module = dict(root.named_modules()).get(layer.name.removeprefix(HEAD_PREFIX)) if root else None
            if module is None:
                raise InputError(f"The encoder {spec.method!r} has no layer {layer.name!r}, which its spec lists.")
            found[layer] = module
        return found


def _build(spec: EncoderSpec) -> nn.Module:
    if spec.onnx_widths:
        return OnnxTrunk()
    trunk = build_trunk(spec.trunk, spec.trunk_options, spec.pool, spec.stem_padding, norm_eps=spec.norm_eps)
    if (width := trunk_width(trunk)) != spec.width:
        raise InputError(f"The trunk {spec.trunk!r} has width {width}, but the spec has width {spec.width}.")
    return trunk


def level_index(spec: EncoderSpec, level: Level) -> int:
    """Return the index of ``level`` in ``spec.levels``.

    Raises:
        InputError: the encoder does not have the level. The message lists its levels.
    """
    if level not in spec.levels:
        raise InputError(missing_level_message(repr(spec.method), level, spec.levels))
    return spec.levels.index(level)


def save_encoder(encoder: Encoder, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights and spec to a safetensors file, with floating-point weights in ``dtype``."""
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in encoder.state_dict().items()
    }
    write_tensors(path, tensors, {"kind": KIND, "spec": encoder.spec.model_dump_json()})


def holds_encoder(path: Path, encoder: Encoder) -> bool:
    """Return whether the file ``path`` contains this encoder: the same spec and identical tensors.

    Raises:
        InputError: see ``read_encoder_spec``.
    """
    # JSON does not distinguish tuples and lists in the trunk's options.
    if read_encoder_spec(path).model_dump_json() != encoder.spec.model_dump_json():
        return False
    stored, own = read_tensors(path), encoder.state_dict()
    return stored.keys() == own.keys() and all(torch.equal(stored[name], own[name].cpu()) for name in stored)


def read_encoder_spec(path: Path) -> EncoderSpec:
    """Read the spec of an encoder file, without the weights.

    Raises:
        InputError: the file does not exist, or is not an encoder file of rcdm.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise InputError(
            f"{path} is a safetensors file, but not an encoder file of rcdm (kind {metadata.get('kind')})."
        )
    return EncoderSpec.parse_json(metadata.get("spec", ""), str(path))


def load_encoder(path: Path) -> Encoder:
    """Load an encoder for inference: float32, on the CPU, in evaluation mode.

    Raises:
        InputError: see ``read_encoder_spec``; or the tensors do not fit the spec.
    """
    spec, tensors = read_encoder_spec(path), read_tensors(path)
    if not spec.onnx_widths:
        # Names and shapes are compared without memory before the encoder is allocated.
        if (blocks := block_count(spec.trunk_options)) > len(tensors):
            raise InputError(
                f"The weights in {path} do not fit the spec in the file: {blocks} blocks, but {len(tensors)} tensors."
            )
        with torch.device("meta"):
            _load(Encoder(spec), tensors, path, assign=True)
    encoder = Encoder(spec)
    _load(encoder, tensors, path)
    return encoder.float().eval().requires_grad_(False)


def _load(encoder: Encoder, tensors: Mapping[str, Tensor], path: Path, assign: bool = False) -> None:
    try:
        encoder.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        raise InputError(f"The weights in {path} do not fit the spec in the file: {str(error)[:1000]}") from error

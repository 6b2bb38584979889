"""Detection of the layers of an encoder whose pooled outputs can be levels."""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import BOTH, LEVEL_PATTERN, LEVELS, MAX_LENGTH
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.from_onnx import output_layers
from rcdm_cli.encoders.spec import HEAD_PREFIX, LayerSpec
from rcdm_cli.encoders.trunks import OnnxTrunk

_BATCH = 2
_CONTAINERS = (nn.Sequential, nn.ModuleList)

Pool = Literal["avg", "max", "token"]
Axes = tuple[int, int]


@torch.no_grad()
def find_layers(encoder: Encoder) -> dict[str, LayerSpec]:
    """Return the layers of an encoder that can be levels, by name, in the order of the forward pass.

    The layers are the outputs of an ONNX graph, or the modules that run once for an image and return (B, D),
    (B, D, H, W), (B, H, W, D) or tokens (B, N, D). Feature maps and tokens are pooled as the encoder pools its last
    ones; an average replaces a pooling with weights. Tokens without class token, such as the tokens of the patch
    embedding, are averaged.
    """
    if isinstance(encoder.trunk, OnnxTrunk):
        return output_layers(encoder.trunk, encoder.spec)
    modules = {
        name: module
        for part, root in (("", encoder.trunk), (HEAD_PREFIX, encoder.head))
        if root is not None
        for name, module in ((part + path, module) for path, module in root.named_modules() if path)
        if not isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd) and _is_level(name, part)
    }
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def hook(name: str) -> Any:
        def store(module: nn.Module, inputs: Any, output: Any) -> None:
            shapes.setdefault(name, []).append(tuple(output.shape) if isinstance(output, Tensor) else ())

        return store

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    size = encoder.spec.preprocessing.size
    try:
        encoder(torch.zeros(_BATCH, 3, size, size, device=encoder.mean.device))
    finally:
        for each in hooks:
            each.remove()
    once = {name: own[0][1:] for name, own in shapes.items() if len(own) == 1 and own[0][:1] == (_BATCH,)}
    maps = {_map_axes(shape) for shape in once.values()} - {None}
    of_cubes = maps.pop() if len(maps) == 1 else None
    found = {name: _layer(name, shape, encoder, of_cubes) for name, shape in once.items()}
    return {name: layer for name, layer in found.items() if layer}


def block_names(encoder: Encoder, layers: Iterable[str]) -> list[str]:
    """Return the names of blocks and of layers outside blocks. A block is an element of an ``nn.Sequential``."""
    inside = {
        f"{name}."
        for name, module in encoder.trunk.named_modules()
        if name and not isinstance(module, _CONTAINERS) and next(module.children(), None) is not None
    }
    return [name for name in layers if name.startswith(HEAD_PREFIX) or not any(map(name.startswith, inside))]


def with_layers(encoders: Sequence[Encoder], levels: Iterable[str] | None) -> list[Encoder]:
    """Return the encoders with those of the given layers as levels that each encoder has. The weights are shared.

    Args:
        encoders: encoders; each may have a part of the levels only.
        levels: names of levels; None adds no level.

    Raises:
        InputError: no encoder has one of the layers. The message lists similar names.
    """
    wanted = [level for level in levels or () if level not in LEVELS]
    if all(level in encoder.spec.levels for level in wanted for encoder in encoders):
        return list(encoders)
    available = [find_layers(encoder) for encoder in encoders]
    for level in wanted:
        if not any(level in layers for layers in available):
            methods = [encoder.spec.method for encoder in encoders]
            message = _unknown_layer_message(level, methods, {name for own in available for name in own})
            if any(encoder.spec.onnx_widths and encoder.spec.pool is None for encoder in encoders):
                message += " Outputs of an ONNX graph with positions need the option pool=."
            raise InputError(message)
    found = []
    for encoder, layers in zip(encoders, available, strict=True):
        names = {*wanted, *(layer.name for layer in encoder.spec.layers)}
        found.append(encoder.with_spec(layers=tuple(layer for name, layer in layers.items() if name in names)))
    return found


def _unknown_layer_message(level: str, methods: Sequence[str], layers: Collection[str]) -> str:
    """Return a message that lists the names of layers that are similar to ``level``."""
    ordered = sorted(layers, key=lambda name: (name.count("."), name))
    near = dict.fromkeys([*get_close_matches(level, ordered, n=4), *(name for name in ordered if level in name)])
    names = f"Similar layers: {', '.join(list(near)[:6])}" if near else f"Layers: {', '.join(ordered[:12])}"
    return (
        f"{', '.join(methods)} {'has' if len(methods) == 1 else 'have'} no layer {level!r}. {names}. `rcdm info` lists"
        " the layers of an encoder."
    )


def _is_level(name: str, part: str) -> bool:
    reserved = part == "" and (name.split(".")[0] in (*LEVELS, BOTH))
    return not reserved and len(name) <= MAX_LENGTH and re.fullmatch(LEVEL_PATTERN, name) is not None


def _map_axes(shape: tuple[int, ...]) -> Axes | None:
    """Return height and width among the axes of a square feature map (D, H, W) or (H, W, D); None if not clear."""
    if len(shape) != 3 or (shape[0] == shape[1]) == (shape[1] == shape[2]):
        return None
    return (1, 2) if shape[0] == shape[1] else (2, 3)


def _layer(name: str, shape: tuple[int, ...], encoder: Encoder, of_cubes: Axes | None) -> LayerSpec | None:
    """Return the layer with an output of this shape for one image; None if the output cannot be pooled.

    Args:
        name: name of the layer.
        shape: shape of the output without the batch.
        encoder: encoder of the layer.
        of_cubes: height and width among the axes of a feature map whose width equals its height.
    """
    pool = _encoder_pool(encoder)
    if len(shape) == 1:
        return LayerSpec(name=name, width=shape[0], after_backbone=name.startswith(HEAD_PREFIX))
    if len(shape) == 2:
        return _token_layer(name, *shape, encoder.trunk, pool)
    axes = _map_axes(shape) or (of_cubes if len(shape) == 3 and len(set(shape)) == 1 else None)
    if axes is None:
        return None
    return LayerSpec(name=name, width=shape[0 if axes == (2, 3) else 2], axes=axes, pool=_without_token(pool))


def _token_layer(name: str, tokens: int, width: int, trunk: nn.Module, pool: Pool) -> LayerSpec | None:
    prefix = int(getattr(trunk, "num_prefix_tokens", 0))
    patches = getattr(getattr(trunk, "patch_embed", None), "num_patches", None)
    if prefix == 0 or tokens == patches:
        return LayerSpec(name=name, width=width, axes=(1,), pool=_without_token(pool))
    if patches is None or tokens != patches + prefix:
        return None
    has_class_token = getattr(trunk, "cls_token", None) is not None
    if pool == "token" and has_class_token:
        return LayerSpec(name=name, width=width, axes=(1,), pool="token")
    return LayerSpec(name=name, width=width, axes=(1,), pool=_without_token(pool), prefix_tokens=prefix)


def _without_token(pool: Pool) -> Pool:
    return "avg" if pool == "token" else pool


def _encoder_pool(encoder: Encoder) -> Pool:
    """Return the pooling of the encoder; the average for other poolings of timm, such as attention pooling."""
    own = getattr(encoder.trunk, "global_pool", None)
    kind: str = encoder.spec.pool or (own if isinstance(own, str) else str(getattr(own, "pool_type", "")))
    for pool in ("avg", "max", "token"):
        if kind in (pool, f"fast{pool}"):
            return pool
    return "avg"

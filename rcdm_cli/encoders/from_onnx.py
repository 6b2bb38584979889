"""Encoders with ONNX graphs as trunks."""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import LEVELS
from rcdm_cli.encoders.build import check_channels
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.onnx_graph import (
    POOL_PREFIX,
    append_outputs,
    append_pooling,
    output_order,
    read_graph,
    select_outputs,
)
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import EncoderSpec, LayerSpec, Preprocessing
from rcdm_cli.encoders.trunks import OnnxTrunk

OPTIONS = ("size", "scaling", "mean", "std", "pool", "axis", "output")

_INPUTS = ("tensor(float)", "tensor(float16)")
_NOT_A_PROJECTOR = ("last_hidden_state", "pooler_output", "hidden_states", "logits", "image_embeds", "attentions")
"""Names of outputs of Hugging Face exports, which are not a projector."""


def open_onnx(path: Path, reference: Reference) -> Encoder:
    """Open an ONNX graph with one output for the backbone and an optional second output for the projector.

    The other outputs of the graph are layers, see ``output_layers``.

    The graph is stored with the encoder, including weights of files beside ``path``, and has no gradient. Outputs with
    positions, (B, N, D), (B, D, N) or (B, D, H, W), are pooled as the option ``pool`` says. The scaling of the images
    is not part of an ONNX file and must be given.

    Raises:
        InputError: the graph has other inputs or outputs, or an option is missing or does not fit.
    """
    reference.check("an ONNX file", OPTIONS)
    model = read_graph(path)
    outputs = list(model.graph.output)
    if given := reference.output:
        names = {value.name for value in outputs}
        select_outputs(model, [given] if given in names else given.split("/"), str(path))
    elif "backbone" in (names := {value.name for value in outputs}):
        select_outputs(model, [name for name in LEVELS if name in names], str(path))
    trunk = OnnxTrunk(model.SerializeToString(), str(path))
    size, channels = _input_size(trunk.session, reference, path)
    if reference.scaling is None and reference.mean is None:
        raise InputError(
            f"{path} does not define the scaling of its images. Give {path},scaling=imagenet, -1..1 or 0..1, "
            "or mean=R/G/B,std=R/G/B."
        )
    preprocessing = reference.preprocessing(Preprocessing(size=size))
    check_channels(channels, preprocessing, str(path))
    image = torch.zeros(1, channels, size, size)
    shapes = [list(h.shape) for h in trunk(image)]
    _check_outputs([output.name for output in model.graph.output], shapes, reference, path)
    pooled = [index for index, shape in enumerate(shapes) if len(shape) > 2]
    if reference.pool and not pooled and len(outputs) == len(shapes):
        raise InputError(f"{path} returns pooled vectors [1, {shapes[0][1]}]. Remove pool={reference.pool}.")
    for index in pooled:
        axes = _position_axes(shapes[index], reference, path)
        if reference.pool is None or (reference.pool == "token" and len(axes) > 1):
            choices = "avg or max" if len(axes) > 1 else "avg, max or token"
            raise InputError(f"{path} returns {shapes[index]} for one image. Give the pooling: pool={choices}.")
        append_pooling(model, index, shapes[index], axes, reference.pool)
    if pooled or len(outputs) > len(shapes):
        append_outputs(model, outputs)
        trunk = OnnxTrunk(model.SerializeToString(), str(path))
    widths = tuple(h.shape[1] for h in trunk(image, trunk.outputs[: len(shapes)]))
    spec = EncoderSpec(
        method=reference.name(),
        trunk="onnx",
        trunk_options={} if channels == 3 else {"in_chans": channels},
        pool=reference.pool,
        width=widths[0],
        onnx_widths=widths,
        preprocessing=preprocessing,
        origin=path.name,
    )
    return Encoder(spec, trunk)


def _input_size(session: Any, reference: Reference, path: Path) -> tuple[int, int]:
    """Return the height and width in pixels, and the number of channels."""
    entries = session.get_inputs()
    shape = entries[0].shape if len(entries) == 1 else []
    if len(shape) != 4 or entries[0].type not in _INPUTS:
        inputs = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in entries)
        raise InputError(
            f"{path} has the inputs {inputs}. An encoder has a single input: float32 or float16 images (B, C, H, W)."
        )
    fixed = {side for side in shape[2:] if isinstance(side, int)}
    if len(fixed) > 1 or (fixed and reference.size and reference.size not in fixed):
        given = f", not {reference.size}" if reference.size else ""
        raise InputError(f"{path} takes images of {shape[2]} x {shape[3]} pixels{given}. Images must be square.")
    size = reference.size or next(iter(fixed), None)
    if size is None:
        raise InputError(f"{path} takes images of any size. Give the size: {path},size=224.")
    return size, shape[1] if isinstance(shape[1], int) else 3


def _check_outputs(names: Sequence[str], shapes: list[list[int]], reference: Reference, path: Path) -> None:
    if any(not 2 <= len(shape) <= 4 or shape[0] != 1 for shape in shapes) or len(shapes) > 2:
        listed = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
        raise InputError(
            f"{path} returns {listed} for one image. An encoder returns [1, D] for the backbone, and optionally a "
            "second [1, D] for the projector. Select outputs: output=NAME, or output=BACKBONE/PROJECTOR."
        )
    if len(names) == 2 and not reference.output and any(name.startswith(_NOT_A_PROJECTOR) for name in names):
        raise InputError(
            f"{path} has the outputs {', '.join(names)}, of which none is a projector. Give output={names[0]} or "
            f"output={names[1]}."
        )


def output_layers(trunk: OnnxTrunk, spec: EncoderSpec) -> dict[str, LayerSpec]:
    """Return the outputs of an ONNX graph that can be levels, by name, in the order of the graph.

    Outputs with positions are pooled as the option ``pool`` of the encoder says. Without this option, and if several
    axes may be the positions, an output with positions is left out.
    """
    size, names = spec.preprocessing.size, trunk.outputs
    if len(names) == 1:
        return {}
    order = output_order(trunk.graph, names, trunk.what)
    shapes = {name: h.shape for name, h in zip(names, trunk(torch.zeros(1, spec.channels, size, size)), strict=True)}
    found = {}
    for name in sorted(names, key=order.__getitem__):
        layer = _output_layer(name, list(shapes[name]), spec)
        if layer and not name.startswith(POOL_PREFIX):
            found[name] = layer.model_copy(update={"after_backbone": order[name] > order[names[0]]})
    return found


def _output_layer(name: str, shape: list[int], spec: EncoderSpec) -> LayerSpec | None:
    axes, pool = _possible_axes(shape) if len(shape) in (3, 4) else [[]], spec.pool
    if len(axes) > 1:  # tokens as wide as the backbone
        axes = [each for each in axes if spec.width in (shape[axis] for axis in (1, 2) if axis not in each)]
    if not 2 <= len(shape) <= 4 or shape[0] != 1 or len(axes) != 1:
        return None
    [positions] = axes
    if positions and (pool is None or (pool == "token" and len(positions) > 1)):
        return None
    width = next(size for axis, size in enumerate(shape) if axis and axis not in positions)
    values = {"name": name, "width": width, "axes": tuple(positions)}
    if len(positions) == 1:
        tokens = shape[positions[0]]
        values |= {"pool": pool, "prefix_tokens": 0 if pool == "token" else tokens - isqrt(tokens) ** 2}
    elif positions:
        values["pool"] = pool
    try:
        return LayerSpec.model_validate(values)
    except ValidationError:  # the name is not the name of a level
        return None


def _possible_axes(shape: Sequence[int]) -> list[list[int]]:
    """Return the axes that can be positions: equal axes of a feature map, or the axis of patches of a square image."""
    if len(shape) == 4:
        return [axes for axes in ([2, 3], [1, 2]) if shape[axes[0]] == shape[axes[1]]]
    return [[axis] for axis in (1, 2) if shape[axis] - isqrt(shape[axis]) ** 2 <= _MAX_PREFIX]


def _position_axes(shape: list[int], reference: Reference, path: Path) -> list[int]:
    """Return the axes of the positions: two equal axes of a feature map, or the axis of a sequence of patches."""
    if len(shape) == 3 and reference.axis:
        return [reference.axis]
    grids = _possible_axes(shape)
    if len(grids) != 1:
        raise InputError(
            f"{path} returns {shape} for one image, and the positions may be on several axes. "
            "Give the axis of the positions: axis=1 or axis=2."
            if len(shape) == 3
            else f"{path} returns {shape} for one image, which is not a square feature map with one channel axis."
        )
    return grids[0]


_MAX_PREFIX = 5
"""Maximum number of class token and registers before the patches of a square image."""

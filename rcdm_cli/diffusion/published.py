"""The architecture of a published U-Net, read off the names and shapes of its tensors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import Level
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation

Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 6
_UP = re.compile(r"output_blocks\.(\d+)\.[12]\.(in_layers|conv)\.")


@dataclass(frozen=True)
class Architecture:
    """What names and shapes tell; the words are those of ``DenoiserSpec``.

    Attributes:
        attention_depths: resolutions with self-attention, counted from 0, the full size.
    """

    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_depths: tuple[int, ...]
    scale_shift_norm: bool
    resblock_updown: bool
    learned_variance: bool


@dataclass(frozen=True)
class Unseen:
    """What names and shapes do not tell; None is unknown.

    Attributes:
        size: height and width of the images in pixels.
        heads: attention heads, unless ``head_channels`` gives their width.
        head_channels: channels per attention head.
        split_qkv_first: the order of the channels of attention (the published ``use_new_attention_order``).
    """

    size: int | None = None
    heads: int | None = None
    head_channels: int | None = None
    split_qkv_first: bool = False


KNOWN: dict[Architecture, Unseen] = {
    # The nine published RCDM checkpoints (README of facebookresearch/RCDM, MODEL_FLAGS_128).
    Architecture(
        256, (1, 1, 2, 3, 4), 2, (2, 3, 4), scale_shift_norm=True, resblock_updown=True, learned_variance=True
    ): Unseen(size=128, heads=4),
}


def read_architecture(shapes: Shapes) -> Architecture:
    """Read a published U-Net's architecture.

    Each resolution has ``blocks`` stages and, but for the last, one that halves the size; on the way up it has
    ``blocks + 1``, the last of which doubles the size in one more layer. Those layers tell the two apart.

    Args:
        shapes: by tensor name.

    Raises:
        InputError: a tensor that tells something is not there, or the blocks make no U-Net.
    """
    cond_width, channels = _shape(shapes, "time_embed.0.weight", 2)
    if channels < 1 or cond_width != 4 * channels:
        raise InputError(f"time_embed.0.weight is {cond_width} × {channels}, where a U-Net has 4 × width by width.")
    stages = _count(shapes, "input_blocks")
    # The layer that doubles the size comes last in its stage, after the residual block and perhaps the attention.
    ups = {found[1]: found[2] for name in shapes if (found := _UP.match(name))}
    resolutions = len(ups) + 1
    if stages % resolutions or stages // resolutions < 2 or _count(shapes, "output_blocks") != stages:
        raise InputError(
            f"{stages} input blocks and {_count(shapes, 'output_blocks')} output blocks of {resolutions} resolutions "
            "make no U-Net."
        )
    per_resolution = stages // resolutions
    firsts = [1 + depth * per_resolution for depth in range(resolutions)]
    widths = [_shape(shapes, f"input_blocks.{first}.0.out_layers.3.weight", 4)[0] for first in firsts]
    with_attention = {
        (int(found[1]) - 1) // per_resolution
        for name in shapes
        if (found := re.match(r"input_blocks\.(\d+)\.1\.", name))
    }
    modulation = _shape(shapes, "input_blocks.1.0.emb_layers.1.weight", 2)[0]
    return Architecture(
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=per_resolution - 1,
        attention_depths=tuple(sorted(with_attention)),
        scale_shift_norm=modulation == 2 * widths[0],
        resblock_updown="conv" not in ups.values(),
        learned_variance=_shape(shapes, "out.2.weight", 4)[0] == 6,
    )


def spec_of(architecture: Architecture, given: Unseen) -> DenoiserSpec:
    """The spec of an architecture; what ``given`` leaves open comes from ``KNOWN``.

    Raises:
        InputError: something is neither given nor known, or does not fit the architecture.
    """
    known = KNOWN.get(architecture, Unseen())
    size = given.size or known.size
    heads = given if given.heads or given.head_channels else known
    needed = {"size": size, "heads": heads.heads or heads.head_channels}
    missing = [name for name, value in needed.items() if not value]
    if size is None or missing:
        raise InputError(
            f"This U-Net ({_in_words(architecture)}) is not one of the published, and shapes do not tell its "
            f"{' and '.join(missing)}. Give {' and '.join(f'--{name}' for name in missing)}."
        )
    values = asdict(architecture) | {
        "size": size,
        "attention": [size >> depth for depth in architecture.attention_depths],
        "head_channels": heads.head_channels,
        "split_qkv_first": given.split_qkv_first or known.split_qkv_first,
    }
    del values["attention_depths"]
    if heads.heads:
        values["heads"] = heads.heads
    return DenoiserSpec.parse(values, "the architecture of the state dict")


def differences(given: Shapes, expected: Shapes) -> list[str]:
    """One clause for each tensor that is missing, is too many or has another shape."""
    missing = [f"{name} is missing" for name in expected if name not in given]
    extra = [f"{name} is one too many" for name in given if name not in expected]
    others = [
        f"{name} is {_by(given[name])}, not {_by(shape)}"
        for name, shape in expected.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ]
    return [*missing, *extra, *others]


def shortened(clauses: Sequence[str]) -> str:
    """The first clauses in one line, and how many more there are."""
    more = len(clauses) - _SHOWN
    return "; ".join(clauses[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise InputError(f"The state dict has no {name}: it is no RCDM checkpoint, or that tensor was renamed.")
    if len(shapes[name]) != dimensions:
        raise InputError(f"{name} is {_by(shapes[name])}, where an RCDM checkpoint has {dimensions} dimensions.")
    return tuple(shapes[name])


def _count(shapes: Shapes, part: str) -> int:
    """Blocks of a part, whose names count from 0."""
    found = {int(match[1]) for name in shapes if (match := re.match(rf"{part}\.(\d{{1,4}})\.", name))}
    if not found or max(found) != len(found) - 1:
        raise InputError(f"The {part} of the state dict do not count from 0 without gaps: it is no RCDM checkpoint.")
    return len(found)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _in_words(architecture: Architecture) -> str:
    channel_mult = ",".join(map(str, architecture.channel_mult))
    return f"{architecture.channels} channels, channel_mult {channel_mult}, {architecture.num_res_blocks} blocks"


_MULTIPLIERS = {64: "1,2,3,4", 128: "1,1,2,3,4", 256: "1,1,2,2,4,4"}


def denoiser_spec(options: Mapping[str, Any]) -> DenoiserSpec:
    """The spec that the published command-line options describe; options that are left out have published defaults.

    Raises:
        InputError: the options describe no U-Net, or one that RCDM does not condition on a representation alone.
    """
    size = int(options.get("image_size", 64))
    channel_mult = options.get("channel_mult", "") or _MULTIPLIERS.get(size)
    if not channel_mult:
        raise InputError(f"Published options give no channel_mult, and there is no default for image_size {size}.")
    head_channels = int(options.get("num_head_channels", -1))
    return DenoiserSpec.parse(
        {
            "size": size,
            "channels": options.get("num_channels", 128),
            "channel_mult": [int(multiplier) for multiplier in channel_mult.split(",")],
            "num_res_blocks": options.get("num_res_blocks", 2),
            "attention": [int(pixels) for pixels in options.get("attention_resolutions", "16,8").split(",")],
            "heads": options.get("num_heads", 4),
            "head_channels": None if head_channels == -1 else head_channels,
            "scale_shift_norm": options.get("use_scale_shift_norm", True),
            "resblock_updown": options.get("resblock_updown", False),
            "learned_variance": options.get("learn_sigma", False),
            "split_qkv_first": options.get("use_new_attention_order", False),
            "dropout": options.get("dropout", 0.0),
        },
        "published options",
    )


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a published state dict into the U-Net's and that of a conditioning projection.

    The second loads into ``conditioning.projections[i]``, with mean 0 and scale 1: published projections do not standardise h.

    Raises:
        InputError: the state has no ``ssl_emb``, or it is no matrix.
    """
    if not {"ssl_emb.weight", "ssl_emb.bias"} <= state.keys():
        raise InputError("The state dict has no ssl_emb.weight and ssl_emb.bias: it is no RCDM checkpoint.")
    weight = state["ssl_emb.weight"]
    if weight.ndim != 2:
        raise InputError(f"ssl_emb.weight has {weight.ndim} dimensions, not 2: it is no RCDM checkpoint.")
    projection = {
        "weight": weight,
        "bias": state["ssl_emb.bias"],
        "mean": weight.new_zeros(weight.shape[1]),
        "scale": weight.new_ones(weight.shape[1]),
    }
    return {name: tensor for name, tensor in state.items() if not name.startswith("ssl_emb.")}, projection


def published_model(state: Mapping[str, Tensor], method: str, level: Level, given: Unseen) -> Model:
    """The model in a published state dict; its tensors are used as they are, not copied.

    Args:
        state: with the published names.
        method: whose representation the checkpoint was trained on.
        level: of that representation.
        given: what shapes do not tell and the table of published checkpoints need not know.

    Raises:
        InputError: it is no RCDM checkpoint; its tensors are not those of its architecture (lists them); a weight is
            not finite, or too large for half precision, in which bundles store it.
    """
    unet, projection = split_state(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
    spec = spec_of(read_architecture(shapes), given)
    representation = Representation(method=method, level=level, width=projection["weight"].shape[1])
    with torch.device("meta"):
        model = Model(spec, ConditioningSpec(projections=(representation,), width=spec.cond_width))
    named = {f"denoiser.{name}": tensor for name, tensor in unet.items()}
    named |= {f"conditioning.projections.0.{name}": tensor for name, tensor in projection.items()}
    expected = {_published_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {_published_name(name): tuple(tensor.shape) for name, tensor in named.items()}
    if different := differences(found, expected):
        raise InputError(f"The tensors of the state dict are not those of an RCDM: {shortened(different)}.")
    for name, tensor in named.items():
        if not _fits_half(tensor):
            raise InputError(f"{_published_name(name)} holds values that are no finite numbers of half precision.")
    model.load_state_dict(named, assign=True)
    return model.eval().requires_grad_(False)


def _published_name(name: str) -> str:
    return name.removeprefix("denoiser.").replace("conditioning.projections.0.", "ssl_emb.")


def _fits_half(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    smallest, largest = tensor.aminmax()
    limit = torch.finfo(torch.float16).max
    return bool(smallest >= -limit and largest <= limit)

"""Published RCDM checkpoints: infer the architecture from tensor names and shapes, and load the model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import Level
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation

Shapes = Mapping[str, tuple[int, ...]]

_MAX_CLAUSES = 6
_UP = re.compile(r"output_blocks\.(\d+)\.[12]\.(in_layers|conv)\.")


@dataclass(frozen=True)
class UNetArchitecture:
    """Part of a ``DenoiserSpec`` that is inferred from tensor names and shapes.

    Attributes:
        channels: as in ``DenoiserSpec``. All attributes except ``attention_depths`` are as in ``DenoiserSpec``.
        attention_depths: resolutions with self-attention; 0 is the full size.
    """

    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_depths: tuple[int, ...]
    scale_shift_norm: bool
    resblock_updown: bool
    learned_variance: bool


@dataclass(frozen=True)
class UNetOptions:
    """Part of a ``DenoiserSpec`` that cannot be inferred from tensor names and shapes. None is unknown.

    Attributes:
        size: height and width of the images in pixels.
        heads: number of attention heads, unless ``head_channels`` is set.
        head_channels: channels per attention head.
        split_qkv_first: order of the attention channels (published as ``use_new_attention_order``).
    """

    size: int | None = None
    heads: int | None = None
    head_channels: int | None = None
    split_qkv_first: bool = False


PUBLISHED: dict[UNetArchitecture, UNetOptions] = {
    # Architecture of the nine published RCDM checkpoints (README of facebookresearch/RCDM, MODEL_FLAGS_128).
    UNetArchitecture(
        256, (1, 1, 2, 3, 4), 2, (2, 3, 4), scale_shift_norm=True, resblock_updown=True, learned_variance=True
    ): UNetOptions(size=128, heads=4),
}


def read_architecture(shapes: Shapes) -> UNetArchitecture:
    """Infer the architecture of a published U-Net.

    In the encoder path, each resolution has ``num_res_blocks`` stages and, except for the last, a stage that halves the
    size. In the decoder path, each resolution has ``num_res_blocks + 1`` stages, and an additional layer in the last
    stage doubles the size.

    Args:
        shapes: shapes by tensor name.

    Raises:
        InputError: a required tensor is missing, or the blocks do not form a U-Net.
    """
    cond_width, channels = _shape(shapes, "time_embed.0.weight", 2)
    if channels < 1 or cond_width != 4 * channels:
        raise InputError(f"time_embed.0.weight is {cond_width} × {channels}, but a U-Net has 4 × width by width.")
    stages = _count(shapes, "input_blocks")
    # The layer that doubles the size is the last layer of its stage.
    ups = {found[1]: found[2] for name in shapes if (found := _UP.match(name))}
    resolutions = len(ups) + 1
    if stages % resolutions or stages // resolutions < 2 or _count(shapes, "output_blocks") != stages:
        raise InputError(
            f"{stages} input blocks and {_count(shapes, 'output_blocks')} output blocks of {resolutions} resolutions "
            "do not form a U-Net."
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
    return UNetArchitecture(
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=per_resolution - 1,
        attention_depths=tuple(sorted(with_attention)),
        scale_shift_norm=modulation == 2 * widths[0],
        resblock_updown="conv" not in ups.values(),
        learned_variance=_shape(shapes, "out.2.weight", 4)[0] == 6,
    )


def spec_of(architecture: UNetArchitecture, given: UNetOptions) -> DenoiserSpec:
    """Return the spec of an architecture. Missing values of ``given`` are taken from ``PUBLISHED``.

    Raises:
        InputError: a value is missing, or does not fit the architecture.
    """
    published = PUBLISHED.get(architecture, UNetOptions())
    size = given.size or published.size
    heads = given if given.heads or given.head_channels else published
    required = {"size": size, "heads": heads.heads or heads.head_channels}
    missing = [name for name, value in required.items() if not value]
    if size is None or missing:
        raise InputError(
            f"This U-Net ({_in_words(architecture)}) is not a published architecture, and tensor shapes do not "
            f"determine its {' and '.join(missing)}. Set {' and '.join(f'`{name}`' for name in missing)}."
        )
    values = asdict(architecture) | {
        "size": size,
        "attention": [size >> depth for depth in architecture.attention_depths],
        "head_channels": heads.head_channels,
        "split_qkv_first": given.split_qkv_first or published.split_qkv_first,
    }
    del values["attention_depths"]
    if heads.heads:
        values["heads"] = heads.heads
    return DenoiserSpec.parse(values, "the architecture of the state dict")


def differences(given: Shapes, expected: Shapes) -> list[str]:
    """Return one clause for each tensor that is missing, unexpected or of another shape."""
    missing = [f"{name} is missing" for name in expected if name not in given]
    extra = [f"{name} is unexpected" for name in given if name not in expected]
    others = [
        f"{name} is {_by(given[name])}, not {_by(shape)}"
        for name, shape in expected.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ]
    return [*missing, *extra, *others]


def shortened(clauses: Sequence[str]) -> str:
    """Join the first clauses, and append the number of remaining clauses."""
    more = len(clauses) - _MAX_CLAUSES
    return "; ".join(clauses[:_MAX_CLAUSES]) + (f"; and {more} more" if more > 0 else "")


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise InputError(f"The state dict has no {name}: it is not an RCDM checkpoint, or this tensor was renamed.")
    if len(shapes[name]) != dimensions:
        raise InputError(f"{name} is {_by(shapes[name])}, but an RCDM checkpoint has {dimensions} dimensions.")
    return tuple(shapes[name])


def _count(shapes: Shapes, part: str) -> int:
    """Return the number of blocks of a part, which are numbered from 0."""
    found = {int(match[1]) for name in shapes if (match := re.match(rf"{part}\.(\d{{1,4}})\.", name))}
    if not found or max(found) != len(found) - 1:
        raise InputError(
            f"The {part} of the state dict are not numbered from 0 without gaps: it is not an RCDM checkpoint."
        )
    return len(found)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _in_words(architecture: UNetArchitecture) -> str:
    channel_mult = ",".join(map(str, architecture.channel_mult))
    return f"{architecture.channels} channels, channel_mult {channel_mult}, {architecture.num_res_blocks} blocks"


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a published state dict into the state dicts of the U-Net and of a conditioning projection.

    The projection has mean 0 and scale 1, because published projections do not standardise ``h``.

    Raises:
        InputError: ``ssl_emb`` is missing or not a matrix.
    """
    if not {"ssl_emb.weight", "ssl_emb.bias"} <= state.keys():
        raise InputError("The state dict has no ssl_emb.weight and ssl_emb.bias: it is not an RCDM checkpoint.")
    weight = state["ssl_emb.weight"]
    if weight.ndim != 2:
        raise InputError(f"ssl_emb.weight has {weight.ndim} dimensions, not 2: it is not an RCDM checkpoint.")
    projection = {
        "weight": weight,
        "bias": state["ssl_emb.bias"],
        "mean": weight.new_zeros(weight.shape[1]),
        "scale": weight.new_ones(weight.shape[1]),
    }
    return {name: tensor for name, tensor in state.items() if not name.startswith("ssl_emb.")}, projection


def published_model(state: Mapping[str, Tensor], method: str, level: Level, given: UNetOptions) -> Model:
    """Load the model of a published state dict. The tensors are not copied.

    Args:
        state: state dict with the published names.
        method: method of the encoder that the checkpoint was trained with.
        level: level of the representation.
        given: values that shapes do not determine and ``PUBLISHED`` does not contain.

    Raises:
        InputError: the state dict is not an RCDM checkpoint, its tensors do not match its architecture, or a weight is
            not finite in fp16, in which bundles store it.
    """
    unet, projection = split_state(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
    spec = spec_of(read_architecture(shapes), given)
    values = {"method": method, "level": level, "width": projection["weight"].shape[1]}
    representation = Representation.parse(values, "the state dict")
    with torch.device("meta"):
        model = Model(spec, ConditioningSpec(projections=(representation,), width=spec.cond_width))
    named = {f"denoiser.{name}": tensor for name, tensor in unet.items()}
    named |= {f"conditioning.projections.0.{name}": tensor for name, tensor in projection.items()}
    expected = {_published_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {_published_name(name): tuple(tensor.shape) for name, tensor in named.items()}
    if different := differences(found, expected):
        raise InputError(f"The state dict is not an RCDM checkpoint; tensors differ: {shortened(different)}.")
    for name, tensor in named.items():
        if not _fits_half(tensor):
            raise InputError(f"{_published_name(name)} contains values that are not finite in fp16.")
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

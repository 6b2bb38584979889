"""How published RCDM checkpoints (github.com/facebookresearch/RCDM) map onto ours."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.diffusion.architecture import Unseen, differences, read_architecture, shortened, spec_of
from rcdm_cli.diffusion.model import Model
from rcdm_cli.diffusion.spec import ConditionerSpec, DenoiserSpec, Level, Representation
from rcdm_cli.errors import InputError

_MULTIPLIERS = {64: "1,2,3,4", 128: "1,1,2,3,4", 256: "1,1,2,2,4,4"}


def denoiser_spec(options: Mapping[str, Any]) -> DenoiserSpec:
    """The spec that the published command-line options describe; options that are left out have published defaults.

    Raises:
        InputError: the options describe no U-Net, or one that RCDM does not condition on a representation alone.
    """
    size = int(options.get("image_size", 64))
    multipliers = options.get("channel_mult", "") or _MULTIPLIERS.get(size)
    if not multipliers:
        raise InputError(f"Published options give no channel_mult, and there is no default for image_size {size}.")
    head_channels = int(options.get("num_head_channels", -1))
    return DenoiserSpec.parse(
        {
            "size": size,
            "channels": options.get("num_channels", 128),
            "multipliers": [int(multiplier) for multiplier in multipliers.split(",")],
            "blocks": options.get("num_res_blocks", 2),
            "attention": [int(pixels) for pixels in options.get("attention_resolutions", "16,8").split(",")],
            "heads": options.get("num_heads", 4),
            "head_channels": None if head_channels == -1 else head_channels,
            "film": options.get("use_scale_shift_norm", True),
            "residual_updown": options.get("resblock_updown", False),
            "learned_variance": options.get("learn_sigma", False),
            "split_qkv_first": options.get("use_new_attention_order", False),
            "dropout": options.get("dropout", 0.0),
        },
        "published options",
    )


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a published state dict into the U-Net's and that of a conditioner row.

    The second loads into ``conditioner.rows[i]``, with mean 0 and scale 1: published rows do not standardise h.

    Raises:
        InputError: the state has no ``ssl_emb``, or it is no matrix.
    """
    if not {"ssl_emb.weight", "ssl_emb.bias"} <= state.keys():
        raise InputError("The state dict has no ssl_emb.weight and ssl_emb.bias: it is no RCDM checkpoint.")
    weight = state["ssl_emb.weight"]
    if weight.ndim != 2:
        raise InputError(f"ssl_emb.weight has {weight.ndim} dimensions, not 2: it is no RCDM checkpoint.")
    row = {
        "weight": weight,
        "bias": state["ssl_emb.bias"],
        "mean": weight.new_zeros(weight.shape[1]),
        "scale": weight.new_ones(weight.shape[1]),
    }
    return {name: tensor for name, tensor in state.items() if not name.startswith("ssl_emb.")}, row


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
    unet, row = split_state(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
    spec = spec_of(read_architecture(shapes), given)
    representation = Representation(method=method, level=level, width=row["weight"].shape[1])
    with torch.device("meta"):
        model = Model(spec, ConditionerSpec(rows=(representation,), width=spec.cond_width))
    named = {f"denoiser.{name}": tensor for name, tensor in unet.items()}
    named |= {f"conditioner.rows.0.{name}": tensor for name, tensor in row.items()}
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
    return name.removeprefix("denoiser.").replace("conditioner.rows.0.", "ssl_emb.")


def _fits_half(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    smallest, largest = tensor.aminmax()
    limit = torch.finfo(torch.float16).max
    return bool(smallest >= -limit and largest <= limit)

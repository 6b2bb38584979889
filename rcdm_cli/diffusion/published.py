"""How published RCDM checkpoints (github.com/facebookresearch/RCDM) map onto ours."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rcdm_cli.diffusion.spec import DenoiserSpec
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
        InputError: the state has no ``ssl_emb``.
    """
    if not {"ssl_emb.weight", "ssl_emb.bias"} <= state.keys():
        raise InputError("The state dict has no ssl_emb.weight and ssl_emb.bias: it is no RCDM checkpoint.")
    weight = state["ssl_emb.weight"]
    row = {
        "weight": weight,
        "bias": state["ssl_emb.bias"],
        "mean": weight.new_zeros(weight.shape[1]),
        "scale": weight.new_ones(weight.shape[1]),
    }
    return {name: tensor for name, tensor in state.items() if not name.startswith("ssl_emb.")}, row

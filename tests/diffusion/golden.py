"""Golden numbers of the published implementation (facebookresearch/RCDM at 71daaf1, CPU, float32)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.diffusion.conditioning import ConditioningProjections
from rcdm_cli.diffusion.published import split_state
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation
from rcdm_cli.diffusion.unet import UNet

REFERENCE = Path(__file__).parents[1] / "reference"


CHANNEL_MULT = {64: "1,2,3,4", 128: "1,1,2,3,4", 256: "1,1,2,2,4,4"}


def denoiser_spec(options: Mapping[str, Any]) -> DenoiserSpec:
    """Return the spec for the command-line options of the published code, with the published defaults."""
    size = int(options.get("image_size", 64))
    channel_mult = options.get("channel_mult", "") or CHANNEL_MULT[size]
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


def arrays(name: str) -> dict[str, Any]:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return dict(file)


def tensors(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays(name).items() if value.dtype.kind in "fi"}


def published_model(name: str) -> tuple[UNet, ConditioningProjections]:
    """Load the U-Net and the conditioning projection of ``unet_a`` or ``unet_b``, in evaluation mode."""
    spec = denoiser_spec(json.loads(str(arrays(name)["config"])))
    state = {key.removeprefix("state/"): value for key, value in tensors(name).items() if key.startswith("state/")}
    unet_state, projection_state = split_state(state)
    projection = Representation(method="dino", level="backbone", width=projection_state["weight"].shape[1])
    unet, conditioning = (
        UNet(spec),
        ConditioningProjections(ConditioningSpec(projections=(projection,), width=spec.cond_width)),
    )
    unet.load_state_dict(unet_state)
    conditioning.projections[0].load_state_dict(projection_state)
    return unet.eval(), conditioning.eval()


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative L2 distance."""
    return float(((ours - theirs).norm() / theirs.norm()).detach())

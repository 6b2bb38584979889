"""Golden numbers of the published implementation (facebookresearch/RCDM at 71daaf1, CPU, float32)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.diffusion.conditioning import ConditioningProjections
from rcdm_cli.diffusion.published import denoiser_spec, split_state
from rcdm_cli.diffusion.spec import ConditioningSpec, Representation
from rcdm_cli.diffusion.unet import UNet

REFERENCE = Path(__file__).parents[1] / "reference"


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

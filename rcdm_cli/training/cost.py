"""Expected cost of a training, computed from its recipe without data."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.autoencoder import Autoencoder
from rcdm_cli.diffusion.flops import count_macs, count_macs_of_call
from rcdm_cli.diffusion.unet import UNet
from rcdm_cli.encoders.trunks import build_trunk
from rcdm_cli.training.recipe import KINDS, AutoencoderRecipe, DistillRecipe, PretrainRecipe, TrainRecipe

H100_FLOPS = 989e12
"""Peak of an H100 SXM for dense bfloat16 matrix products, in FLOP/s (data sheet of NVIDIA)."""
UTILISATION = 0.2
"""Assumed fraction of the peak. U-Nets at small sizes reach less than the 40 to 50 % of large transformers."""


def training_cost(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return parameters, operations per step and H100-hours of a recipe.

    A multiply-accumulate counts as two operations. The backward pass counts as two forward passes. Encoders and the
    autoencoder of a latent space, which run once per image, data loading and the optimizer are not counted.

    Args:
        values: content of the recipe.
        where: name of the recipe, for error messages.

    Raises:
        InputError: the recipe is invalid.
    """
    kind = KINDS.get(str(values.get("kind")))
    if kind is None:
        raise InputError(f"{where}: the kind of a recipe is one of {', '.join(KINDS)}; given {values.get('kind')!r}.")
    recipe = kind.parse(values, where)
    if isinstance(recipe, DistillRecipe):
        # The operations depend on the teacher. A call is a forward pass, and a backward pass counts as two.
        return {
            "images seen per student": recipe.steps * recipe.optimization.batch,
            "calls per image, first student": 3 + 2 * recipe.substeps,
            "calls per image, later students": 5,
        }
    with torch.device("meta"):
        if isinstance(recipe, PretrainRecipe):
            trunk = build_trunk(recipe.trunk.name, recipe.trunk.options, recipe.trunk.pool)
            return {"parameters": {"trunk": _parameters(trunk)}}
        if isinstance(recipe, TrainRecipe):
            parts, macs = {"denoiser": _parameters(UNet(recipe.denoiser))}, count_macs_of_call(recipe.denoiser)
        else:
            parts, macs = _autoencoder(recipe)
    forward = 2 * macs
    per_step = 3 * forward * recipe.optimization.batch
    total = per_step * recipe.steps
    return {
        "parameters": parts,
        "forward GFLOP per image": round(forward / 1e9, 3),
        "training GFLOP per step": round(per_step / 1e9, 1),
        "training FLOP": float(f"{total:.3g}"),
        "images seen": recipe.steps * recipe.optimization.batch,
        "H100-hours": float(f"{total / (UTILISATION * H100_FLOPS) / 3600:.2g}"),
        "assumed utilisation": f"{UTILISATION:.0%} of {H100_FLOPS / 1e12:.0f} TFLOP/s (H100 SXM, dense bfloat16)",
    }


def _autoencoder(recipe: AutoencoderRecipe) -> tuple[dict[str, int], int]:
    """Return parameters and multiply-accumulates of encoder and decoder, without the encoder of the perceptual loss."""
    autoencoder, space = Autoencoder(recipe.autoencoder).eval(), recipe.autoencoder.space
    side = recipe.size // space.factor
    images, latents = torch.zeros(1, 3, recipe.size, recipe.size), torch.zeros(1, space.channels, side, side)
    macs = count_macs(lambda: (autoencoder.encode(images), autoencoder.decode(latents)))
    return {"encoder": _parameters(autoencoder.encoder), "decoder": _parameters(autoencoder.decoder)}, macs


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

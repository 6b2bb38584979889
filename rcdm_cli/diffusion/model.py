"""Denoiser and conditioner: the two networks that are trained, saved and run together."""

from torch import nn

from rcdm_cli.diffusion.conditioner import Conditioner
from rcdm_cli.diffusion.spec import ConditionerSpec, DenoiserSpec
from rcdm_cli.diffusion.unet import UNet


class Model(nn.Module):
    """``denoiser``: (x_t, t, cond) → eps, and ``conditioner``: h → cond, with random weights."""

    def __init__(self, denoiser: DenoiserSpec, conditioner: ConditionerSpec) -> None:
        super().__init__()
        self.denoiser = UNet(denoiser)
        self.conditioner = Conditioner(conditioner)

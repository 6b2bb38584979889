"""What a network predicts, and how the noise follows from it."""

from typing import Literal

import torch
from torch import Tensor

from rcdm_cli.diffusion.samplers import Denoise
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.unet import UNet

Prediction = Literal["eps", "v"]


def target(prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """What the network should say, (B, 3, H, W).

    ``eps`` is the noise itself. ``v`` is ``sqrt(a) eps - sqrt(1 - a) x0`` (Salimans and Ho 2022, arXiv:2202.00512,
    appendix D), with ``a`` the schedule's ``alphas_cumprod``.
    """
    return noise if prediction == "eps" else schedule.velocity(x0, t, noise)


def denoiser_of(unet: UNet, schedule: Schedule, cond: Tensor) -> Denoise:
    """The function that samplers call: ``(x, t) → eps``, for a U-Net and its ``cond`` (B, W)."""

    def network(x: Tensor, t: int) -> Tensor:
        output: Tensor = unet(x, torch.full((len(x),), t, device=x.device), cond)
        return output

    return predicting(unet.spec.prediction, schedule, network)


def predicting(prediction: Prediction, schedule: Schedule, network: Denoise) -> Denoise:
    """``network``, whose output (B, 3 or 6, H, W) is what ``prediction`` says, as a function ``(x, t) → eps``.

    Where it predicts ``v``, noise follows as ``sqrt(a) v + sqrt(1 - a) x``: an error of the network is not magnified at
    high noise, where eps must be all but exact to say anything of x0.
    """
    if prediction == "eps":
        return network
    return lambda x, t: schedule.eps_of_velocity(x, t, network(x, t).to(x.dtype))

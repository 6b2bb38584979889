"""Counts of multiply-accumulate operations of networks. No weights are allocated."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.diffusion.unet import UNet


def count_macs_of_call(spec: DenoiserSpec) -> int:
    """Count the multiply-accumulates of convolutions and matrix products in one denoiser call for one sample."""
    with torch.device("meta"):
        unet = UNet(spec).eval()
        inputs = torch.zeros(1, *spec.input_shape), torch.zeros(1), torch.zeros(1, spec.cond_width)
    return count_macs(lambda: unet(*inputs))


def count_macs(call: Callable[[], object]) -> int:
    """Count the multiply-accumulates of ``call`` with PyTorch's counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2

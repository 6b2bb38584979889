"""In which number format the matrix products of training run."""

import contextlib

import torch

from rcdm_cli.diffusion.precision import has_bf16
from rcdm_cli.training.recipe import Precision


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A fresh context for one forward pass at ``precision``."""
    if precision == "bf16" or (precision == "auto" and has_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()

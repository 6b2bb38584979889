"""AdamW and compilation of a training, by device."""

import shutil
from collections.abc import Iterable
from importlib.util import find_spec

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from rcdm_cli.training.recipe import Optimization


def adamw(parameters: Iterable[Parameter], plan: Optimization) -> AdamW:
    """Return the optimizer of a training.

    A step is one fused kernel on CPUs and CUDA devices. On a CUDA device, the number of steps and the norm of the
    gradients stay on the device, so that a step does not wait for the device.
    """
    listed = list(parameters)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in listed)
    return AdamW(listed, lr=plan.lr, betas=plan.betas, weight_decay=plan.weight_decay, fused=fused)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def can_compile(device: torch.device) -> bool:
    """Return whether ``torch.compile`` is worthwhile and possible: on CUDA devices with Triton and a C compiler."""
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    return device.type == "cuda" and find_spec("triton") is not None and compiler

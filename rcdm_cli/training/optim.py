"""The learning rate: warm-up, constant, cosine decay at the end."""

import contextlib
from math import cos, pi

import torch
from torch.optim import Optimizer

from rcdm_cli.core.precision import has_bf16
from rcdm_cli.training.recipe import Optimization, Precision


def learning_rate(step: int, steps: int, plan: Optimization, lr: float) -> float:
    """The rate of step ``step`` (0-based) of ``steps``."""
    warmup, decay = plan.warmup * steps, plan.decay * steps
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    left = steps - step
    fall = 0.5 * (1 - cos(pi * left / decay)) if left < decay else 1.0
    return lr * rise * fall


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A fresh context for one forward pass at ``precision``."""
    if precision == "bf16" or (precision == "auto" and has_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()

"""The learning rate: warm-up, constant, cosine decay at the end."""

from math import cos, pi

from torch.optim import Optimizer

from rcdm_cli.training.recipe import Optimization


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

"""Batch norm over the images of all processes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rcdm_cli.training import distributed


class SyncedBatchNorm(TorchFunctionMode):
    """Context in which batch norm in training uses the statistics of all processes.

    Every module that calls ``torch.nn.functional.batch_norm`` is changed, on each device.
    ``torch.nn.SyncBatchNorm`` has no implementation for CPUs, and replaces the modules of the encoder. Each process
    must have the same number of images.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace calls of ``batch_norm``."""
        function = _batch_norm if func is F.batch_norm and distributed.world_size() > 1 else func
        return function(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute ``torch.nn.functional.batch_norm`` for the features ``x`` (B, C, ...) of all processes."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    wide = x.float()
    own_var, own_mean = torch.var_mean(wide, dim=[0, *range(2, x.ndim)], correction=0)
    means, variances = distributed.gather(torch.stack([own_mean, own_var])[None]).unbind(1)  # (processes, C) each
    mean = means.mean(dim=0)
    var = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            count = x.numel() // x.shape[1] * distributed.world_size()
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / (count - 1)), momentum)
    gain = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    offset = -mean * gain if bias is None else bias - mean * gain
    channels = (1, -1, *[1] * (x.ndim - 2))
    return (wide * gain.view(channels) + offset.view(channels)).to(x.dtype)

"""Group norm with a scale and a shift per sample."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rcdm_cli.diffusion.spec import NORM_GROUPS

SMALL, SMALL_GRAD = 1 << 14, 1 << 15
"""Largest number of features of the group norm of PyTorch on a CPU, in inference and in training."""


class GroupNorm(nn.Module):
    """Group norm (Wu and He 2018, arXiv:1803.08494), followed by a scale and a shift per sample.

    The output has the dtype of the input. Statistics are computed in float32. Scale and shift are folded into the
    affine parameters of the norm.

    Args:
        channels: number of channels, a multiple of ``groups``.
        groups: number of groups.
        epsilon: value added to the variance.
    """

    def __init__(self, channels: int, groups: int = NORM_GROUPS, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.epsilon = groups, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Compute ``norm(x) * (1 + scale) + shift``.

        Args:
            x: features (B, C, H, W).
            modulation: scale and shift, (B or 1, 2C); None computes ``norm(x)``.

        Returns:
            Features (B, C, H, W) with the dtype of ``x``.
        """
        gain, offset = self.weight[None], self.bias[None]
        if modulation is not None:
            scale, shift = modulation.to(gain.dtype).chunk(2, dim=1)
            gain, offset = gain * (1 + scale), torch.addcmul(shift, offset, 1 + scale)
        normalised: Tensor
        if x.is_cuda:
            return _native(x, gain, offset, self.groups, self.epsilon)
        if _is_small(x):
            # For channels_last features on a CPU, PyTorch computes E[x²] - E[x]² in float32, which is not exact.
            normalised = _native(x.contiguous(), gain, offset, self.groups, self.epsilon)
            return normalised.contiguous(memory_format=_memory_format(x))
        if torch.is_grad_enabled():
            normalised = _Normalise.apply(x, gain, offset, self.groups, self.epsilon)
            return normalised
        return _normalise(x, gain, offset, self.groups, self.epsilon)[0]


def _is_small(x: Tensor) -> bool:
    """Return whether two copies and the group norm of PyTorch take less time than many small operations on a CPU."""
    limit = SMALL_GRAD if torch.is_grad_enabled() else SMALL
    # A compiler fuses the small operations. The size of an exported graph is not known.
    return not torch.compiler.is_compiling() and x.numel() <= limit


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _native(x: Tensor, gain: Tensor, offset: Tensor, groups: int, epsilon: float) -> Tensor:
    """Normalise ``x`` (B, C, H, W) with the group norm of PyTorch, which has a kernel for CUDA."""
    if len(gain) == 1:
        normalised = F.group_norm(x, groups, gain[0].to(x.dtype), offset[0].to(x.dtype), epsilon)
    else:
        # Autocast returns float32.
        normalised = F.group_norm(x, groups, eps=epsilon).to(x.dtype)
        normalised = torch.addcmul(_per_sample(offset, x), normalised, _per_sample(gain, x))
    return normalised.to(x.dtype)


class _Normalise(torch.autograd.Function):
    """(x - mean) / std * gain + offset, with a backward pass that reads the features five times.

    On a CPU with channels_last features, the backward pass of ``torch.group_norm`` takes 30 times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, groups: int, epsilon: float) -> Tensor:
        """Normalise ``x`` (B, C, H, W) with ``gain`` and ``offset`` (B or 1, C)."""
        normalised, mean, inverse_std = _normalise(x, gain, offset, groups, epsilon)
        at_channels = x.shape[0], groups, x.shape[1] // groups
        ctx.groups = groups
        ctx.save_for_backward(x, gain, *(value.expand(at_channels).flatten(1) for value in (mean, inverse_std)))
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return the gradients of ``x``, ``gain`` and ``offset`` for the gradient of the output (B, C, H, W)."""
        x, gain, mean, inverse_std = ctx.saved_tensors
        pixels = x.shape[2] * x.shape[3]
        grad_offset = grad.sum(dim=(2, 3)).to(mean.dtype)
        grad_gain = ((grad * x).sum(dim=(2, 3)) - mean * grad_offset) * inverse_std

        # With g = gain / std * grad, the gradient of x is g - mean(g) - x_norm * mean(g * x_norm), with means over the
        # group.
        along_x = -inverse_std.square() * _over_group(gain * grad_gain, ctx.groups) / pixels
        constant = -inverse_std * _over_group(gain * grad_offset, ctx.groups) / pixels - along_x * mean
        rest = torch.addcmul(_per_sample(constant, x), x, _per_sample(along_x, x))
        grad_x = torch.addcmul(rest, grad, _per_sample(inverse_std * gain, x))
        return grad_x, grad_gain.sum_to_size(gain.shape), grad_offset.sum_to_size(gain.shape), None, None


def _normalise(x: Tensor, gain: Tensor, offset: Tensor, groups: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised ``x``, and the mean and inverse standard deviation of its groups, (B, groups, 1) each.

    Features are not reshaped into groups, because channels_last features would be copied.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = _grouped(wide.mean(dim=(2, 3)), groups).mean(dim=2, keepdim=True)
    # In float32, E[x²] - E[x]² would lose the variance of features whose mean is large compared with their deviation.
    squares = (wide - _per_sample(mean.expand(-1, -1, x.shape[1] // groups), wide)).square_()
    variance = _grouped(squares.mean(dim=(2, 3)), groups).mean(dim=2, keepdim=True)
    inverse_std = (variance + epsilon).rsqrt()

    factor = (inverse_std * _grouped(gain, groups)).to(x.dtype)
    normalised = torch.addcmul(_per_sample(_grouped(offset, groups) - mean * factor, x), x, _per_sample(factor, x))
    return normalised, mean, inverse_std


def _grouped(values: Tensor, groups: int) -> Tensor:
    """Reshape (B, C) to (B, groups, C / groups)."""
    return values.reshape(-1, groups, values.shape[1] // groups)


def _over_group(values: Tensor, groups: int) -> Tensor:
    """Replace each channel of (B, C) by the mean over its group."""
    grouped = _grouped(values, groups)
    return grouped.mean(dim=2, keepdim=True).expand_as(grouped).flatten(1)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B, C) or (B, groups, C / groups) to (B, C, 1, 1), with the dtype of ``like``."""
    return values.to(like.dtype).reshape(-1, like.shape[1], 1, 1)

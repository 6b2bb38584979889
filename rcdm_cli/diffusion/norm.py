"""Group norm whose gain and offset may differ from image to image."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rcdm_cli.diffusion.spec import NORM_GROUPS

_EPSILON = 1e-5


class GroupNorm(nn.Module):
    """Group norm over 32 groups (Wu and He 2018, arXiv:1803.08494), then a scale and a shift for each image.

    Features come out in the type they came in; statistics are float32 whatever that type is. The scale and shift of
    FiLM cost nothing, since they are folded into the norm's own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            x: features (B, C, H, W).
            modulation: (B or 1, 2C): the scale s, then the shift, of ``norm(x) * (1 + s) + shift``; none for
                ``norm(x)``.

        Returns:
            (B, C, H, W), of x's type.
        """
        gain, offset = self.weight[None], self.bias[None]
        if modulation is not None:
            scale, shift = modulation.to(gain.dtype).chunk(2, dim=1)
            gain, offset = gain * (1 + scale), torch.addcmul(shift, offset, 1 + scale)
        if torch.is_grad_enabled():
            normalised: Tensor = _Normalise.apply(x, gain, offset)
            return normalised
        return _normalise(x, gain, offset)[0]


class _Normalise(torch.autograd.Function):
    """(x - mean) / std * gain + offset, with a backward pass of five sweeps over memory.

    That of ``torch.group_norm`` takes 30 times as long on a CPU when channels are last in memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        """Features x (B, C, H, W), gain and offset (B or 1, C)."""
        normalised, mean, inverse_std = _normalise(x, gain, offset)
        at_channels = x.shape[0], NORM_GROUPS, x.shape[1] // NORM_GROUPS
        ctx.save_for_backward(x, gain, *(value.expand(at_channels).flatten(1) for value in (mean, inverse_std)))
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the loss's derivative with respect to the output (B, C, H, W) to those with respect to the inputs."""
        x, gain, mean, inverse_std = ctx.saved_tensors
        pixels = x.shape[2] * x.shape[3]
        slope_offset = slope.sum(dim=(2, 3)).to(mean.dtype)
        slope_gain = ((slope * x).sum(dim=(2, 3)) - mean * slope_offset) * inverse_std

        # d loss / d x = gain / std * slope - (mean of that over the group) - normalised x * (mean of their product)
        along_x = -inverse_std.square() * _over_group(gain * slope_gain) / pixels
        constant = -inverse_std * _over_group(gain * slope_offset) / pixels - along_x * mean
        rest = torch.addcmul(_per_sample(constant, x), x, _per_sample(along_x, x))
        slope_x = torch.addcmul(rest, slope, _per_sample(inverse_std * gain, x))
        return slope_x, slope_gain.sum_to_size(gain.shape), slope_offset.sum_to_size(gain.shape)


def _normalise(x: Tensor, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised x, and the mean and inverse standard deviation of its groups, (B, groups, 1) each.

    Features keep their shape, since to regroup them costs a copy when channels are last in memory.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = _grouped(wide.mean(dim=(2, 3))).mean(dim=2, keepdim=True)
    squares = wide.square() if wide is x else wide.square_()  # in place: a second wide copy costs more than the sum
    variance = _grouped(squares.mean(dim=(2, 3))).mean(dim=2, keepdim=True) - mean.square()
    inverse_std = (variance.clamp(min=0) + _EPSILON).rsqrt()

    factor = (inverse_std * _grouped(gain)).to(x.dtype)
    normalised = torch.addcmul(_per_sample(_grouped(offset) - mean * factor, x), x, _per_sample(factor, x))
    return normalised, mean, inverse_std


def _grouped(values: Tensor) -> Tensor:
    """(B, C) as (B, groups, C / groups)."""
    return values.reshape(-1, NORM_GROUPS, values.shape[1] // NORM_GROUPS)


def _over_group(values: Tensor) -> Tensor:
    """The mean over each group, at every channel of it: (B, C) to (B, C)."""
    grouped = _grouped(values)
    return grouped.mean(dim=2, keepdim=True).expand_as(grouped).flatten(1)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B, C), in groups or not, as (B, C, 1, 1) of ``like``'s type."""
    return values.to(like.dtype).reshape(-1, like.shape[1], 1, 1)

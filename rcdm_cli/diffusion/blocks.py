"""Blocks of the U-Net. Parameter names equal the names in published checkpoints."""

import math
from typing import Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_cli.diffusion.norm import GroupNorm
from rcdm_cli.diffusion.spec import DenoiserSpec

Layer = TypeVar("Layer", bound=nn.Module)


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Return the sinusoidal embedding of timesteps, with frequencies from 1 to 1/10000.

    Args:
        t: timesteps (B,), int or float.
        width: width of the embedding. An odd width is padded with a zero.

    Returns:
        Cosines and sines, float32 (B, width).
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


class ResidualBlock(nn.Module):
    """Residual block with two norm-SiLU-convolution stages and a modulation (arXiv:2105.05233, section 3).

    Args:
        spec: spec of the U-Net.
        channels: input channels.
        out_channels: output channels.
        resample: ``down`` halves the size by averaging, ``up`` doubles it by repeating pixels, before the first
            convolution and in the skip connection.
    """

    def __init__(
        self, spec: DenoiserSpec, channels: int, out_channels: int, resample: Literal["up", "down"] | None = None
    ) -> None:
        super().__init__()
        self.scale_shift_norm = spec.scale_shift_norm
        self.resample = resample
        self.modulation_width = 2 * out_channels if spec.scale_shift_norm else out_channels
        convolution = nn.Conv2d(channels, out_channels, 3, padding=1)
        last_convolution = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.in_layers = nn.ModuleDict({"0": GroupNorm(channels), "2": convolution})
        self.emb_layers = nn.ModuleDict({"1": nn.Linear(spec.cond_width, self.modulation_width)})
        self.out_layers = nn.ModuleDict(
            {"0": GroupNorm(out_channels), "2": nn.Dropout(spec.dropout), "3": last_convolution}
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def modulation(self, embedding: Tensor) -> Tensor:
        """Return the modulation (B, ``modulation_width``) for the activated embedding (B, cond width)."""
        return cast(Tensor, self.emb_layers["1"](embedding))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Map features (B, channels, H, W) and ``modulation`` (B or 1, ``modulation_width``) to (B, out, H', W')."""
        convolution = cast(nn.Conv2d, self.in_layers["2"])
        features = F.silu(self.in_layers["0"](x))
        if self.resample == "up":
            features, x = repeat_then_convolve(features, convolution), repeat(x)
        elif self.resample == "down":
            features, x = convolution(F.avg_pool2d(features, 2)), F.avg_pool2d(x, 2)
        else:
            features = convolution(features)

        norm = self.out_layers["0"]
        if self.scale_shift_norm:
            features = norm(features, modulation)
        else:
            features = norm(features + modulation.to(features.dtype)[..., None, None])
        features = self.out_layers["3"](self.out_layers["2"](F.silu(features)))
        return cast(Tensor, self.skip_connection(x) + features)


class Attention(nn.Module):
    """Residual self-attention over the positions of a feature map.

    Args:
        spec: spec of the U-Net.
        channels: input and output channels.
    """

    def __init__(self, spec: DenoiserSpec, channels: int) -> None:
        super().__init__()
        self.heads = spec.heads_at(channels)
        self.split_qkv_first = spec.split_qkv_first
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, channels, H, W) to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C): a view of channels_last features
        qkv = _pointwise(tokens, self.qkv)
        if self.split_qkv_first:
            query, key, value = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            query, key, value = qkv.unflatten(2, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        attended = _attend(query, key, value)  # (B, heads, HW, channels per head)
        projected = _pointwise(attended.transpose(1, 2).flatten(2), self.proj_out)
        return x + projected.transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """Strided convolution that halves the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, channels, H/2, W/2)."""
        return cast(Tensor, self.op(x))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, followed by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, channels, 2H, 2W)."""
        return repeat_then_convolve(x, self.conv)


def repeat(x: Tensor) -> Tensor:
    """Upsample (B, C, H, W) to (B, C, 2H, 2W) by repeating pixels."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def repeat_then_convolve(x: Tensor, convolution: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """Apply ``convolution`` (3x3, padding 1) to ``repeat(x)``: (B, C, H, W) to (B, out, 2H, 2W).

    Because pixels repeat, the nine weights apply to four distinct pixels. The sum of the weights of each pixel gives a
    transposed convolution (4x4, stride 2) of ``x`` with 4/9 of the operations. ``folded`` computes it in advance.
    """
    if isinstance(convolution, nn.ConvTranspose2d):
        return cast(Tensor, convolution(x))
    if torch.is_grad_enabled() and x.shape[0] * x.shape[2] * x.shape[3] <= 64:
        # For few positions, the sum of the weights and its gradient take longer than the saved operations.
        return cast(Tensor, convolution(repeat(x)))
    return F.conv_transpose2d(x, _kernel(convolution), convolution.bias, stride=2, padding=1)


def folded(convolution: nn.Conv2d) -> nn.ConvTranspose2d:
    """Return the transposed convolution that equals ``repeat`` and ``convolution``, for constant weights."""
    channels, out_channels = convolution.in_channels, convolution.out_channels
    with torch.device("meta"):
        transposed = nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1)
    transposed.weight = nn.Parameter(_kernel(convolution).detach(), requires_grad=False)
    transposed.bias = convolution.bias
    return transposed


def _kernel(convolution: nn.Conv2d) -> Tensor:
    """Return the 4x4 kernel: per dimension, weights (a, b, c) become (c, c + b, b + a, a)."""
    reverse = convolution.weight.flip(2, 3).transpose(0, 1)
    columns = F.pad(reverse, (0, 1)) + F.pad(reverse, (1, 0))
    return F.pad(columns, (0, 0, 0, 1)) + F.pad(columns, (0, 0, 1, 0))


def zeroed(layer: Layer) -> Layer:
    """Set the parameters of a layer to 0, so that its residual branch is initially zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute scaled dot-product attention for (B, heads, HW, channels per head)."""
    if query.shape[2] > 64 and not torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(query, key, value)
    # For few positions the fused kernel is slower: in training on a CPU with 64 positions, by a factor of six.
    scores: Tensor = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    wide = torch.promote_types(scores.dtype, torch.float32)
    # The ``dtype`` argument of softmax is not used, because the ONNX exporter would convert its output.
    return scores.to(wide).softmax(dim=3).to(value.dtype) @ value


def _pointwise(tokens: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Apply a convolution of kernel size 1 to tokens (B, HW, C)."""
    return F.linear(tokens, convolution.weight.squeeze(2), convolution.bias)

"""Autoencoders with the layers and parameter names of diffusers: images ↔ latents.

diffusers is not imported: a bundle with a decoder needs no further package. The tests compare the outputs with the
outputs of diffusers.
"""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_cli.diffusion.autoencoder_spec import KLSpec, LatentStatistics, TinySpec
from rcdm_cli.diffusion.blocks import folded, repeat_then_convolve
from rcdm_cli.diffusion.inference import DTYPES
from rcdm_cli.diffusion.norm import GroupNorm

_EPSILON = 1e-6
_LOG_VARIANCE = (-30.0, 20.0)


class _ResnetBlock(nn.Module):
    def __init__(self, width: int, out_width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(width, groups, _EPSILON)
        self.conv1 = nn.Conv2d(width, out_width, 3, padding=1)
        self.norm2 = GroupNorm(out_width, groups, _EPSILON)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.conv_shortcut = nn.Identity() if width == out_width else nn.Conv2d(width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv1(F.silu(self.norm1(x)))
        features = self.conv2(F.silu(self.norm2(features)))
        return cast(Tensor, self.conv_shortcut(x) + features)


class _SelfAttention(nn.Module):
    """Residual self-attention with a single head over the positions of a feature map."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(width, groups, _EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # (B, 1, HW, C)
        attended = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        projected: Tensor = self.to_out[0](attended[:, 0])
        return x + projected.transpose(1, 2).reshape(x.shape)


class _MidBlock(nn.Module):
    def __init__(self, spec: KLSpec) -> None:
        super().__init__()
        width, groups = spec.block_out_channels[-1], spec.norm_num_groups
        self.resnets = nn.ModuleList([_ResnetBlock(width, width, groups), _ResnetBlock(width, width, groups)])
        self.attentions = nn.ModuleList([_SelfAttention(width, groups)] if spec.mid_block_add_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return cast(Tensor, self.resnets[1](x))


class _Downsampler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.pad(x, (0, 1, 0, 1))))


class _Upsampler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return repeat_then_convolve(x, self.conv)


class _Stage(nn.Module):
    """Residual blocks at one resolution, followed by a change of resolution except in the last stage."""

    def __init__(self, widths: tuple[int, int], blocks: int, groups: int, last: bool, resample: str) -> None:
        super().__init__()
        width, out_width = widths
        self.resnets = nn.ModuleList(
            _ResnetBlock(width if block == 0 else out_width, out_width, groups) for block in range(blocks)
        )
        if not last:
            sampler = _Downsampler(out_width) if resample == "downsamplers" else _Upsampler(out_width)
            self.register_module(resample, nn.ModuleList([sampler]))
        self.resample = None if last else resample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return cast(Tensor, x if self.resample is None else getattr(self, self.resample)[0](x))


class _KLEncoder(nn.Module):
    def __init__(self, spec: KLSpec) -> None:
        super().__init__()
        widths, groups = spec.block_out_channels, spec.norm_num_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            _Stage((previous, width), spec.layers_per_block, groups, depth == len(widths) - 1, "downsamplers")
            for depth, (previous, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.mid_block = _MidBlock(spec)
        self.conv_norm_out = GroupNorm(widths[-1], groups, _EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 2 * spec.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return cast(Tensor, self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x)))))


class _KLDecoder(nn.Module):
    def __init__(self, spec: KLSpec) -> None:
        super().__init__()
        widths, groups = spec.block_out_channels[::-1], spec.norm_num_groups
        self.conv_in = nn.Conv2d(spec.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _MidBlock(spec)
        self.up_blocks = nn.ModuleList(
            _Stage((previous, width), spec.layers_per_block + 1, groups, depth == len(widths) - 1, "upsamplers")
            for depth, (previous, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.conv_norm_out = GroupNorm(widths[-1], groups, _EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return cast(Tensor, self.conv_out(F.silu(self.conv_norm_out(x))))


class _TinyBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class _TinyEncoder(nn.Module):
    def __init__(self, spec: TinySpec) -> None:
        super().__init__()
        width = spec.encoder_block_out_channels[0]
        layers: list[nn.Module] = []
        for depth, blocks in enumerate(spec.num_encoder_blocks):
            layers.append(
                nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
                if depth
                else nn.Conv2d(3, width, 3, padding=1)
            )
            layers += [_TinyBlock(width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, spec.latent_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers((x + 1) / 2))


class _TinyDecoder(nn.Module):
    def __init__(self, spec: TinySpec) -> None:
        super().__init__()
        width = spec.decoder_block_out_channels[0]
        layers: list[nn.Module] = [nn.Conv2d(spec.latent_channels, width, 3, padding=1), nn.ReLU()]
        *inner, last = spec.num_decoder_blocks
        for blocks in inner:
            layers += [_TinyBlock(width) for _ in range(blocks)]
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        layers += [_TinyBlock(width) for _ in range(last)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, 2 * self.layers(torch.tanh(x / 3) * 3) - 1)


class Autoencoder(nn.Module):
    """Autoencoder with random weights: images (B, 3, H, W) in [-1, 1] ↔ latents (B, C, H / factor, W / factor).

    Args:
        spec: architecture.
        encoder: whether to build the encoder. Sampling needs the decoder only.
    """

    def __init__(self, spec: KLSpec | TinySpec, encoder: bool = True) -> None:
        super().__init__()
        self.spec = spec
        self.quant_conv = self.post_quant_conv = None
        if isinstance(spec, KLSpec):
            channels = spec.latent_channels
            if encoder:
                self.encoder: nn.Module = _KLEncoder(spec)
                self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if spec.use_quant_conv else None
            self.decoder: nn.Module = _KLDecoder(spec)
            self.post_quant_conv = nn.Conv2d(channels, channels, 1) if spec.use_post_quant_conv else None
        else:
            if encoder:
                self.encoder = _TinyEncoder(spec)
            self.decoder = _TinyDecoder(spec)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and log variance of the latents; ``AutoencoderTiny`` is deterministic and has no variance."""
        latents: Tensor = self.encoder(images)
        if isinstance(self.spec, TinySpec):
            return latents, None
        if self.quant_conv is not None:
            latents = self.quant_conv(latents)
        mean, log_variance = latents.chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def encode(self, images: Tensor) -> Tensor:
        """Return the mean of the latents of images (B, 3, H, W) in [-1, 1]."""
        return self.posterior(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W), about in [-1, 1], for latents (B, C, h, w)."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return cast(Tensor, self.decoder(latents))


class LatentCodec(nn.Module):
    """Autoencoder with normalised latents: each channel has mean 0 and variance 1 over the training images.

    ``forward`` decodes, so that a decoder is exported like any other network.

    Args:
        autoencoder: autoencoder, with or without its encoder.
        statistics: mean and standard deviation of each channel of the latents.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: Autoencoder, statistics: LatentStatistics) -> None:
        super().__init__()
        self.autoencoder, self.statistics = autoencoder, statistics
        for name in ("mean", "std"):
            values = torch.tensor(getattr(statistics, name), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Return the normalised latents of images (B, 3, H, W) in [-1, 1]."""
        return self.normalise(self.autoencoder.encode(images))

    def normalise(self, latents: Tensor) -> Tensor:
        """Normalise latents (B, C, h, w) of the autoencoder."""
        return (latents - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Return images, float32 (B, 3, H, W), for normalised latents ``x`` (B, C, h, w)."""
        latents = x * self.std + self.mean
        return self.autoencoder.decode(latents.to(next(self.autoencoder.decoder.parameters()).dtype)).float()

    def at_precision(self, precision: str) -> "LatentCodec":
        """Return a copy for decoding, with weights of convolutions and attention in ``precision``.

        Norms are computed in float32. Upsampling convolutions are folded. The copy shares weights that do not change.

        Args:
            precision: ``fp32`` or ``bf16``. In float16, the decoder of Stable Diffusion overflows.
        """
        shared = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in self.parameters()}
        copied = copy.deepcopy(self, shared)
        for module in copied.modules():
            if isinstance(module, _Upsampler):
                cast(Any, module).conv = folded(module.conv)
        for module in copied.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.to(DTYPES[precision])
        return copied.eval()

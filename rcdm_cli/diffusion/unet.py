"""Denoiser: a U-Net conditioned on timestep and representation."""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_cli.diffusion.blocks import (
    Attention,
    Downsample,
    ResidualBlock,
    Upsample,
    timestep_embedding,
    zeroed,
)
from rcdm_cli.diffusion.norm import GroupNorm
from rcdm_cli.diffusion.spec import DenoiserSpec


class UNet(nn.Module):
    """U-Net of Dhariwal and Nichol (2021, arXiv:2105.05233), modulated by timestep and conditioning vector.

    ``forward`` computes ``modulations`` and then ``denoise_with``. Modulations depend on timestep and conditioning
    vector only, so a sampler can compute them before its loop.

    State-dict names equal the published names. The published ``ssl_emb`` is a conditioning projection.
    """

    def __init__(self, spec: DenoiserSpec) -> None:
        super().__init__()
        self.spec = spec
        self.time_embed = nn.Sequential(
            nn.Linear(spec.channels, spec.cond_width), nn.SiLU(), nn.Linear(spec.cond_width, spec.cond_width)
        )
        widths = [spec.channels * multiplier for multiplier in spec.channel_mult]
        resolutions = list(zip(spec.feature_sizes, widths, strict=True))

        width = widths[0]
        skips = [width]  # widths of the feature maps for the skip connections
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(spec.space.channels, width, 3, padding=1)])])
        for depth, (size, out_width) in enumerate(resolutions):
            for _ in range(spec.num_res_blocks):
                self.input_blocks.append(self._stage(size, width, out_width))
                width = out_width
                skips.append(width)
            if depth < len(resolutions) - 1:
                down = ResidualBlock(spec, width, width, "down") if spec.resblock_updown else Downsample(width)
                self.input_blocks.append(nn.ModuleList([down]))
                skips.append(width)

        self.middle_block = nn.ModuleList(
            [ResidualBlock(spec, width, width), Attention(spec, width), ResidualBlock(spec, width, width)]
        )

        self.output_blocks = nn.ModuleList()
        for depth, (size, out_width) in reversed(list(enumerate(resolutions))):
            for block in range(spec.num_res_blocks + 1):
                stage = self._stage(size, width + skips.pop(), out_width)
                width = out_width
                if depth and block == spec.num_res_blocks:
                    stage.append(ResidualBlock(spec, width, width, "up") if spec.resblock_updown else Upsample(width))
                self.output_blocks.append(stage)

        self.out = nn.Sequential(GroupNorm(width), nn.SiLU(), zeroed(nn.Conv2d(width, spec.out_channels, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Predict eps or v.

        Args:
            x: noisy inputs (B, C, H, W) of ``spec.input_shape``.
            t: timesteps (B,), int or float in 0..T-1.
            cond: conditioning vectors (B, ``spec.cond_width``); zeros for unconditional.

        Returns:
            Prediction (B, C, H, W), or with learned variance (B, 2C, H, W) with the variance channels.
        """
        return self.denoise_with(x, self.modulations(t, cond))

    @property
    def modulation_width(self) -> int:
        """Width M of ``modulations``."""
        return sum(block.modulation_width for block in self._residual_blocks())

    def modulations(self, t: Tensor, cond: Tensor) -> Tensor:
        """Return the modulations (B, M) of all blocks for ``t`` (B,) and ``cond`` (B, ``spec.cond_width``)."""
        embedding = F.silu(self.time_embed(timestep_embedding(t, self.spec.channels)) + cond)
        return torch.cat([block.modulation(embedding) for block in self._residual_blocks()], dim=1)

    def denoise_with(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Predict from ``x`` (B, C, H, W) and ``modulations`` (B, M), or (1, M) for the whole batch."""
        widths = [block.modulation_width for block in self._residual_blocks()]
        remaining = iter(modulations.split(widths, dim=1))

        features = x
        skips = []
        for stage in self.input_blocks:
            features = _run(stage, features, remaining)
            skips.append(features)
        features = _run(self.middle_block, features, remaining)
        for stage in self.output_blocks:
            features = _run(stage, torch.cat([features, skips.pop()], dim=1), remaining)
        return cast(Tensor, self.out(features))

    def _stage(self, size: int, width: int, out_width: int) -> nn.ModuleList:
        stage = nn.ModuleList([ResidualBlock(self.spec, width, out_width)])
        if size in self.spec.attention:
            stage.append(Attention(self.spec, out_width))
        return stage

    def _residual_blocks(self) -> list[ResidualBlock]:
        """Return the residual blocks in the order of execution, which is the order of creation."""
        return [module for module in self.modules() if isinstance(module, ResidualBlock)]


def _run(stage: nn.Module, features: Tensor, modulations: Iterator[Tensor]) -> Tensor:
    for layer in cast(nn.ModuleList, stage):
        features = layer(features, next(modulations)) if isinstance(layer, ResidualBlock) else layer(features)
    return features

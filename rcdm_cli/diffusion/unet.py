"""The denoiser: a U-Net that predicts the noise in an image."""

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
    """The U-Net of Dhariwal and Nichol (2021, arXiv:2105.05233), modulated by (timestep, representation).

    ``forward`` is ``denoise_with`` of ``modulations``. A sampler's loop can do with the second half: modulations depend
    on the timestep and the representation, not on the image, and are the same for all images of one representation.

    State-dict names equal the published ones, but for ``ssl_emb``, which is a row of the conditioning.
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
        skips = [width]  # widths of the feature maps that the way up takes over
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, width, 3, padding=1)])])
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
        """Predict the noise in ``x``.

        Args:
            x: noisy images (B, 3, size, size).
            t: timesteps (B,), integers or floats in 0..T-1.
            cond: (B, ``spec.cond_width``) from the conditioning; zeros for unconditional.

        Returns:
            eps (B, 3, size, size), or with learned variance (B, 6, size, size): eps and the variance channels.
        """
        return self.denoise_with(x, self.modulations(t, cond))

    @property
    def modulation_width(self) -> int:
        """M, the width of ``modulations``."""
        return sum(block.modulation_width for block in self._residual_blocks())

    def modulations(self, t: Tensor, cond: Tensor) -> Tensor:
        """What every block needs of ``t`` (B,) and ``cond`` (B, ``spec.cond_width``), side by side: (B, M)."""
        embedding = F.silu(self.time_embed(timestep_embedding(t, self.spec.channels)) + cond)
        return torch.cat([block.modulation(embedding) for block in self._residual_blocks()], dim=1)

    def denoise_with(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Predict the noise in ``x`` (B, 3, size, size) with what ``modulations`` gave: (B, M), or (1, M) for all."""
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
        """In the order in which they run, which is the order in which they were made."""
        return [module for module in self.modules() if isinstance(module, ResidualBlock)]


def _run(stage: nn.Module, features: Tensor, modulations: Iterator[Tensor]) -> Tensor:
    for layer in cast(nn.ModuleList, stage):
        features = layer(features, next(modulations)) if isinstance(layer, ResidualBlock) else layer(features)
    return features

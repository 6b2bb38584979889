"""Conditioning: map representations to conditioning vectors."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, GuidanceRange
from rcdm_cli.diffusion.unet import UNet


class ConditioningProjection(nn.Linear):
    """Linear map of ``(h - mean) / scale`` for one (method, level). Initially, mean is 0 and scale is 1."""

    mean: Tensor
    scale: Tensor

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__(in_width, out_width)
        self.register_buffer("mean", torch.zeros(in_width))
        self.register_buffer("scale", torch.ones(in_width))

    def forward(self, h: Tensor) -> Tensor:
        """Map ``h`` (B, in width) to (B, out width)."""
        return super().forward((h - self.mean) / self.scale)


class GuidanceEmbedding(nn.Linear):
    """Linear map of sines and cosines of the guidance scale, initially 0 (Meng et al. 2023, arXiv:2210.03142)."""

    FREQUENCIES = 4

    def __init__(self, scales: GuidanceRange, width: int) -> None:
        super().__init__(1 + 2 * self.FREQUENCIES, width)
        self.scales = scales
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, scale: Tensor) -> Tensor:
        """Map guidance scales (B,) to vectors (B, width), which are added to ``cond``."""
        position = (scale[:, None] - self.scales.low) / (self.scales.high - self.scales.low)
        angle = torch.pi * position * torch.arange(1, self.FREQUENCIES + 1, device=scale.device)
        return super().forward(torch.cat([position, angle.sin(), angle.cos()], dim=1))


class ConditioningProjections(nn.Module):
    """Conditioning projections of all representations, one per (method, level).

    A single projection without standardisation equals ``ssl_emb`` of the published RCDM (arXiv:2112.09164, section 3).
    """

    def __init__(self, spec: ConditioningSpec) -> None:
        super().__init__()
        self.spec = spec
        self.projections = nn.ModuleList(
            ConditioningProjection(projection.width, spec.width) for projection in spec.projections
        )
        if spec.null == "learned":
            self.null = nn.Parameter(torch.zeros(spec.width))
        self.guidance = GuidanceEmbedding(spec.guidance, spec.width) if spec.guidance else None

    def forward(self, h: Tensor, projection: int) -> Tensor:
        """Map representations of one (method, level) to conditioning vectors.

        Args:
            h: representations (B, D).
            projection: index of the projection, as returned by ``spec.projection(method, level)``.

        Returns:
            cond (B, ``spec.width``).

        Raises:
            InputError: ``h`` does not have the width of the projection.
        """
        given = self.spec.projections[projection]
        if h.ndim != 2 or h.shape[1] != given.width:
            raise InputError(
                f"`h` must have the shape (B, {given.width}) for {given.method} at {given.level}; given "
                f"{tuple(h.shape)}."
            )
        return cast(Tensor, self.projections[projection](h))

    def mixed(self, groups: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Map a batch with several representations to conditioning vectors.

        Args:
            groups: (index of the projection, ``h`` (B_g, D)) in the order of the batch.

        Returns:
            cond (sum of B_g, ``spec.width``).
        """
        return torch.cat([self(h, projection) for projection, h in groups])

    def random_h(self, projection: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return random representations (batch, D) with the mean and the scale of a projection, on its device."""
        target = cast(ConditioningProjection, self.projections[projection])
        noise = torch.randn(batch, target.in_features, generator=generator).to(target.mean.device)
        return noise * target.scale + target.mean

    def unconditional(self, batch: int) -> Tensor:
        """Return the unconditional cond (batch, ``spec.width``): zeros, or the learned vector."""
        if self.spec.null == "learned":
            return self.null.expand(batch, -1)
        return cast(Tensor, self.projections[0].weight).new_zeros(batch, self.spec.width)

    def drop(self, cond: Tensor, dropped: Tensor) -> Tensor:
        """Replace ``cond`` (B, ``spec.width``) by the unconditional cond where ``dropped`` (B,) is True.

        Training with dropped cond enables classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, algorithm
        1).
        """
        return torch.where(dropped[:, None], self.unconditional(len(cond)).to(cond.dtype), cond)

    def standardise(self, projection: int, mean: Tensor, std: Tensor) -> None:
        """Set mean and scale of a projection to ``mean`` (D,) and ``std`` (D,). The scale of a constant feature is 1.

        Raises:
            InputError: a shape is not (D,), or a value is not finite.
        """
        target = cast(ConditioningProjection, self.projections[projection])
        for name, values in (("mean", mean), ("std", std)):
            if values.shape != target.mean.shape or not values.isfinite().all():
                raise InputError(
                    f"The {name} of projection {projection} must be {target.mean.numel()} finite numbers; given shape "
                    f"{tuple(values.shape)}."
                )
        target.mean.copy_(mean)
        target.scale.copy_(torch.where(std > 0, std, 1.0))


class Model(nn.Module):
    """Diffusion model with random weights.

    Attributes:
        denoiser: U-Net, (x_t, t, cond) → prediction.
        conditioning: conditioning projections, h → cond.
    """

    def __init__(self, denoiser: DenoiserSpec, conditioning: ConditioningSpec) -> None:
        super().__init__()
        self.denoiser = UNet(denoiser)
        self.conditioning = ConditioningProjections(conditioning)

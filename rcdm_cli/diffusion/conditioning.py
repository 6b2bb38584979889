"""From representations to what the denoiser is conditioned on."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec
from rcdm_cli.diffusion.unet import UNet


class ConditioningProjection(nn.Linear):
    """The linear map of one (method, level), applied to ``(h - mean) / scale``; mean 0 and scale 1 until set."""

    mean: Tensor
    scale: Tensor

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__(in_width, out_width)
        self.register_buffer("mean", torch.zeros(in_width))
        self.register_buffer("scale", torch.ones(in_width))

    def forward(self, h: Tensor) -> Tensor:
        """``h`` (B, in width) to (B, out width)."""
        return super().forward((h - self.mean) / self.scale)


class ConditioningProjections(nn.Module):
    """One linear map per (method, level), so that one denoiser serves several representations.

    A single projection that is not standardised is ``ssl_emb`` of the published RCDM (arXiv:2112.09164, section 3).
    """

    def __init__(self, spec: ConditioningSpec) -> None:
        super().__init__()
        self.spec = spec
        self.projections = nn.ModuleList(
            ConditioningProjection(projection.width, spec.width) for projection in spec.projections
        )

    def forward(self, h: Tensor, projection: int) -> Tensor:
        """Condition on one representation.

        Args:
            h: (B, D) with D the projection's width.
            projection: which projection it belongs to; ``spec.projection(method, level)`` finds it.

        Returns:
            cond (B, ``spec.width``).
        """
        return cast(Tensor, self.projections[projection](h))

    def mixed(self, groups: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Condition one batch on several representations.

        Args:
            groups: (projection, h) with h (B_g, the projection's width), in the order of the batch.

        Returns:
            cond (sum of B_g, ``spec.width``).
        """
        return torch.cat([self(h, projection) for projection, h in groups])

    def unconditional(self, batch: int) -> Tensor:
        """The cond (batch, ``spec.width``) that says nothing: zeros."""
        return cast(Tensor, self.projections[0].weight).new_zeros(batch, self.spec.width)

    def standardise(self, projection: int, mean: Tensor, std: Tensor) -> None:
        """Have ``projection`` subtract ``mean`` (D,) from h and divide by ``std`` (D,).

        A feature that never varies (std 0) is not divided.

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


def drop_cond(cond: Tensor, dropped: Tensor) -> Tensor:
    """``cond`` (B, W) with zeros where ``dropped`` (B,) is True, for classifier-free guidance.

    Ho and Salimans 2022 (arXiv:2207.12598), algorithm 1.
    """
    return cond * ~dropped[:, None].to(cond.device)


class Model(nn.Module):
    """``denoiser``: (x_t, t, cond) → eps, and ``conditioning``: h → cond, with random weights."""

    def __init__(self, denoiser: DenoiserSpec, conditioning: ConditioningSpec) -> None:
        super().__init__()
        self.denoiser = UNet(denoiser)
        self.conditioning = ConditioningProjections(conditioning)

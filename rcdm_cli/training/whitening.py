"""Train a projection of the conditioning along the directions in which ``h`` varies, nearly all at one scale."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcdm_cli.diffusion.conditioning import ConditioningProjection, ConditioningProjections

FLOOR = 1e-2
"""Added to each direction's variance, both as shares of the largest: the weakest are scaled up ten times, no more."""


class WhitenedProjection(nn.Module):
    """A conditioning's projection while it is trained: a linear map of whitened ``h``.

    The features of ``h`` are correlated, so that a few directions hold nearly all of its variance, and a projection that is
    trained on the features learns of these alone in any reasonable time. Inputs should be uncorrelated and of one
    scale (LeCun et al. 1998, "Efficient BackProp", section 4.3). What is learned is a projection all the same: ``weight``
    times a fixed matrix, which ``folded`` gives. The scale is that of the strongest direction: Adam moves every weight
    by the same step, so at a smaller one that direction would be learned later than by a plain projection.

    Args:
        projection: whose map it begins with; it standardises ``h`` with its own mean and scale.
        covariance: of ``h``, (D, D).
    """

    whitener: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, projection: ConditioningProjection, covariance: Tensor) -> None:
        super().__init__()
        scale = projection.scale.double()
        variance, directions = torch.linalg.eigh(covariance.double() / (scale[:, None] * scale))
        deviation = (variance.clamp(min=0) / variance.max().clamp(min=1e-12) + FLOOR).sqrt()
        self.register_buffer("whitener", (directions / deviation @ directions.T).float())
        self.register_buffer("mean", projection.mean.clone())
        self.register_buffer("scale", projection.scale.clone())
        self.weight = nn.Parameter(
            (projection.weight.detach().double() @ (directions * deviation @ directions.T)).float()
        )
        self.bias = nn.Parameter(projection.bias.detach().clone())

    def forward(self, h: Tensor) -> Tensor:
        """``h`` (B, D) to (B, out width), as the projection with the ``folded`` weight does."""
        # In bf16, the whitener's rounding would be as large as what is left of the weak directions.
        with torch.autocast(h.device.type, enabled=False):
            white = (h - self.mean) / self.scale @ self.whitener
        return F.linear(white, self.weight, self.bias)

    def folded(self) -> Tensor:
        """The weight (out width, D) of the projection that does the same."""
        return self.weight @ self.whitener


@torch.no_grad()
def standardise_anew(projection: ConditioningProjection, mean: Tensor, std: Tensor) -> None:
    """Have ``projection`` standardise ``h`` with ``mean`` and ``std`` (D,), its weight and bias changed so that its map stays.

    A projection of another model standardises with what it was trained on, and a published one not at all.
    """
    std = torch.where(std > 0, std, 1.0)
    projection.bias.add_(projection.weight @ ((mean - projection.mean) / projection.scale))
    projection.weight.mul_(std / projection.scale)
    projection.mean.copy_(mean)
    projection.scale.copy_(std)


def whiten(conditioning: ConditioningProjections, projection: int, covariance: Tensor) -> None:
    """Put a ``WhitenedProjection`` in the place of ``projection``."""
    conditioning.projections[projection] = WhitenedProjection(
        cast(ConditioningProjection, conditioning.projections[projection]), covariance
    )


def folded_parameters(conditioning: ConditioningProjections) -> list[Tensor]:
    """The parameters of a conditioning of whitened projections, as those of its plain projections: weight and bias of each."""
    projections = [cast(WhitenedProjection, projection) for projection in conditioning.projections]
    return [parameter for projection in projections for parameter in (projection.folded(), projection.bias)]

"""Train conditioning projections on whitened representations."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcdm_cli.diffusion.conditioning import ConditioningProjection, ConditioningProjections

FLOOR = 1e-2
"""Added to the variance of each direction, relative to the largest variance. It limits the gain to a factor of 10."""


class WhitenedProjection(nn.Module):
    """Conditioning projection in training: a linear map of whitened ``h``.

    The features of ``h`` are correlated: a few directions carry most of the variance, and a projection trained on the
    features learns little about the other directions. Inputs should be uncorrelated and equally scaled (LeCun et al.
    1998, "Efficient BackProp", section 4.3). The result is a plain projection: ``weight`` times a fixed matrix, which
    ``folded`` returns. The whitened scale equals the scale of the strongest direction. Adam moves all weights by equal
    steps, so at a smaller scale the strongest direction would be learned later than by a plain projection.

    Args:
        projection: initial map, with the mean and scale that standardise ``h``.
        covariance: covariance of ``h``, (D, D).
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
        """Map ``h`` (B, D) to (B, out width). Equivalent to a projection with the ``folded`` weight."""
        # In bf16, the rounding error would be as large as the weak directions.
        with torch.autocast(h.device.type, enabled=False):
            white = (h - self.mean) / self.scale @ self.whitener
        return F.linear(white, self.weight, self.bias)

    def folded(self) -> Tensor:
        """Return the weight (out width, D) of the equivalent plain projection."""
        return self.weight @ self.whitener


@torch.no_grad()
def restandardise(projection: ConditioningProjection, mean: Tensor, std: Tensor) -> None:
    """Replace mean and scale of ``projection`` by ``mean`` and ``std`` (D,), and adapt its weights to preserve its map.

    The projection of another model has the statistics of its own training images, or none.
    """
    std = torch.where(std > 0, std, 1.0)
    projection.bias.add_(projection.weight @ ((mean - projection.mean) / projection.scale))
    projection.weight.mul_(std / projection.scale)
    projection.mean.copy_(mean)
    projection.scale.copy_(std)


def whiten(conditioning: ConditioningProjections, projection: int, covariance: Tensor) -> None:
    """Replace ``projection`` by a ``WhitenedProjection``."""
    conditioning.projections[projection] = WhitenedProjection(
        cast(ConditioningProjection, conditioning.projections[projection]), covariance
    )


def folded_parameters(conditioning: ConditioningProjections) -> list[Tensor]:
    """Return the parameters of the equivalent plain projections: weight and bias of each."""
    projections = [cast(WhitenedProjection, projection) for projection in conditioning.projections]
    return [parameter for projection in projections for parameter in (projection.folded(), projection.bias)]

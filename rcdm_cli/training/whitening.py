"""Train a row of the conditioner along the directions in which ``h`` varies, nearly all at one scale."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcdm_cli.diffusion.conditioning import Conditioner, Row

FLOOR = 1e-2
"""Added to each direction's variance, both as shares of the largest: the weakest are scaled up ten times, no more."""


class WhitenedRow(nn.Module):
    """A conditioner's row while it is trained: a linear map of whitened ``h``.

    The features of ``h`` are correlated, so that a few directions hold nearly all of its variance, and a row that is
    trained on the features learns of these alone in any reasonable time. Inputs should be uncorrelated and of one
    scale (LeCun et al. 1998, "Efficient BackProp", section 4.3). What is learned is a row all the same: ``weight``
    times a fixed matrix, which ``folded`` gives. The scale is that of the strongest direction: Adam moves every weight
    by the same step, so at a smaller one that direction would be learned later than by a plain row.

    Args:
        row: whose map it begins with; it standardises ``h`` with its own mean and scale.
        covariance: of ``h``, (D, D).
    """

    whitener: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, row: Row, covariance: Tensor) -> None:
        super().__init__()
        scale = row.scale.double()
        variance, directions = torch.linalg.eigh(covariance.double() / (scale[:, None] * scale))
        deviation = (variance.clamp(min=0) / variance.max().clamp(min=1e-12) + FLOOR).sqrt()
        self.register_buffer("whitener", (directions / deviation @ directions.T).float())
        self.register_buffer("mean", row.mean.clone())
        self.register_buffer("scale", row.scale.clone())
        self.weight = nn.Parameter((row.weight.detach().double() @ (directions * deviation @ directions.T)).float())
        self.bias = nn.Parameter(row.bias.detach().clone())

    def forward(self, h: Tensor) -> Tensor:
        """``h`` (B, D) to (B, out width), as the row with the ``folded`` weight does."""
        # In bf16, the whitener's rounding would be as large as what is left of the weak directions.
        with torch.autocast(h.device.type, enabled=False):
            white = (h - self.mean) / self.scale @ self.whitener
        return F.linear(white, self.weight, self.bias)

    def folded(self) -> Tensor:
        """The weight (out width, D) of the row that does the same."""
        return self.weight @ self.whitener


@torch.no_grad()
def standardise_anew(row: Row, mean: Tensor, std: Tensor) -> None:
    """Have ``row`` standardise ``h`` with ``mean`` and ``std`` (D,), its weight and bias changed so that its map stays.

    A row of another model standardises with what it was trained on, and a published one not at all.
    """
    std = torch.where(std > 0, std, 1.0)
    row.bias.add_(row.weight @ ((mean - row.mean) / row.scale))
    row.weight.mul_(std / row.scale)
    row.mean.copy_(mean)
    row.scale.copy_(std)


def whiten(conditioner: Conditioner, row: int, covariance: Tensor) -> None:
    """Put a ``WhitenedRow`` in the place of ``row``."""
    conditioner.rows[row] = WhitenedRow(cast(Row, conditioner.rows[row]), covariance)


def folded_parameters(conditioner: Conditioner) -> list[Tensor]:
    """The parameters of a conditioner of whitened rows, as those of its plain rows: weight and bias of each."""
    rows = [cast(WhitenedRow, row) for row in conditioner.rows]
    return [parameter for row in rows for parameter in (row.folded(), row.bias)]

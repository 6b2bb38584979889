"""Losses of lightly without boolean masks.

An index with a mask reads the number of True elements from the device, so that each step would wait for the device.
lightly has no option that avoids the masks. The names and the defaults of the options are lightly's.
"""

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss, VICRegLoss
from lightly.loss.vicreg_loss import invariance_loss, variance_loss
from torch import Tensor


class NTXent(NTXentLoss):  # type: ignore[misc]
    """NT-Xent loss of SimCLR (Chen et al. 2020, arXiv:2002.05709, equation 1), without a memory bank."""

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Return the mean cross-entropy of the pairs ``out0`` (B, D) and ``out1`` (B, D) among the 2B projections."""
        z = F.normalize(torch.cat([out0, out1]), dim=1)
        logits = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        positives = torch.arange(len(z), device=z.device).roll(len(out0))
        return F.cross_entropy(logits, positives)


class VICReg(VICRegLoss):  # type: ignore[misc]
    """VICReg loss (Bardes et al. 2022, arXiv:2105.04906, equation 6)."""

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the weighted sum of invariance, variance and covariance of ``z_a`` (B, D) and ``z_b`` (B, D)."""
        variance = 0.5 * (variance_loss(z_a, self.eps) + variance_loss(z_b, self.eps))
        covariance = _covariance_loss(z_a) + _covariance_loss(z_b)
        invariance = invariance_loss(z_a, z_b)
        loss: Tensor = self.lambda_param * invariance + self.mu_param * variance + self.nu_param * covariance
        return loss


def _covariance_loss(z: Tensor) -> Tensor:
    """Return the sum of the squared covariances of different features of ``z`` (B, D), divided by D."""
    centred = z - z.mean(dim=0)
    covariance = (centred.T @ centred / (len(z) - 1)).fill_diagonal_(0)
    return covariance.square().sum() / z.shape[1]

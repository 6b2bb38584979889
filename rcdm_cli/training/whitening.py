"""Train conditioning projections on whitened representations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcdm_cli.diffusion.conditioning import ConditioningProjection, ConditioningProjections

FLOOR = 1e-2
"""Added to the variance of each direction, relative to the largest variance. It limits the gain to a factor of 10."""


SINGLE_THREAD_WIDTH = 2048
"""Largest width of ``h`` whose covariance is decomposed with one thread: 3 s for 2048 features. The threads of
LAPACK wait for each other actively. On cores that other processes use, several threads took 50 times as long as one."""


@contextmanager
def _one_thread(condition: bool) -> Iterator[None]:
    """Compute with one thread if ``condition`` is true."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if condition else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class WhitenedProjection(nn.Module):
    """Conditioning projection in training: a linear map of whitened ``h``.

    The features of ``h`` are correlated: a few directions carry most of the variance, and a projection trained on the
    features learns little about the other directions. Inputs should be uncorrelated and equally scaled (LeCun et al.
    1998, "Efficient BackProp", section 4.3). The result is a plain projection: ``weight`` times a fixed matrix
    (``fold``). The whitened scale equals the scale of the strongest direction. Adam moves all weights by equal steps,
    so at a smaller scale the strongest direction would be learned later than by a plain projection.

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
        with _one_thread(len(covariance) <= SINGLE_THREAD_WIDTH):
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


@torch.no_grad()
def fold(whitened: ConditioningProjections, weights: Mapping[str, Tensor], plain: ConditioningProjections) -> None:
    """Copy ``weights``, which replace the parameters of ``whitened``, into the equivalent plain projections.

    Args:
        whitened: conditioning whose projections are ``WhitenedProjection``.
        weights: weights by the names of the parameters of ``whitened``.
        plain: conditioning to change.
    """
    whiteners = {
        f"projections.{number}.weight": cast(WhitenedProjection, projection).whitener
        for number, projection in enumerate(whitened.projections)
    }
    for name, parameter in plain.named_parameters():
        parameter.copy_(weights[name] @ whiteners[name] if name in whiteners else weights[name])

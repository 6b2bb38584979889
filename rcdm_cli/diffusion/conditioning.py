"""From representations to what the denoiser is conditioned on."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.spec import ConditionerSpec, DenoiserSpec
from rcdm_cli.diffusion.unet import UNet


class Row(nn.Linear):
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


class Conditioner(nn.Module):
    """One linear map per (method, level), so that one denoiser serves several representations.

    A single row that is not standardised is ``ssl_emb`` of the published RCDM (arXiv:2112.09164, section 3).
    """

    def __init__(self, spec: ConditionerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.rows = nn.ModuleList(Row(row.width, spec.width) for row in spec.rows)

    def forward(self, h: Tensor, row: int) -> Tensor:
        """Condition on one representation.

        Args:
            h: (B, D) with D the row's width.
            row: which row it belongs to; ``spec.row(method, level)`` finds it.

        Returns:
            cond (B, ``spec.width``).
        """
        return cast(Tensor, self.rows[row](h))

    def mixed(self, groups: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Condition one batch on several representations.

        Args:
            groups: (row, h) with h (B_g, the row's width), in the order of the batch.

        Returns:
            cond (sum of B_g, ``spec.width``).
        """
        return torch.cat([self(h, row) for row, h in groups])

    def unconditional(self, batch: int) -> Tensor:
        """The cond (batch, ``spec.width``) that says nothing: zeros."""
        return cast(Tensor, self.rows[0].weight).new_zeros(batch, self.spec.width)

    def standardise(self, row: int, mean: Tensor, std: Tensor) -> None:
        """Have ``row`` subtract ``mean`` (D,) from h and divide by ``std`` (D,).

        A feature that never varies (std 0) is not divided.

        Raises:
            InputError: a shape is not (D,), or a value is not finite.
        """
        target = cast(Row, self.rows[row])
        for name, values in (("mean", mean), ("std", std)):
            if values.shape != target.mean.shape or not values.isfinite().all():
                raise InputError(
                    f"The {name} of row {row} must be {target.mean.numel()} finite numbers; given shape "
                    f"{tuple(values.shape)}."
                )
        target.mean.copy_(mean)
        target.scale.copy_(torch.where(std > 0, std, 1.0))


def drop(cond: Tensor, dropped: Tensor) -> Tensor:
    """``cond`` (B, W) with zeros where ``dropped`` (B,) is True, for classifier-free guidance.

    Ho and Salimans 2022 (arXiv:2207.12598), algorithm 1.
    """
    return cond * ~dropped[:, None].to(cond.device)


class Model(nn.Module):
    """``denoiser``: (x_t, t, cond) → eps, and ``conditioner``: h → cond, with random weights."""

    def __init__(self, denoiser: DenoiserSpec, conditioner: ConditionerSpec) -> None:
        super().__init__()
        self.denoiser = UNet(denoiser)
        self.conditioner = Conditioner(conditioner)

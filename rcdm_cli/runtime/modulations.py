"""What the denoiser needs of timestep and representation, computed once before the loop."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcdm_cli.diffusion.unet import UNet

BYTES = 2**28
"""Of modulations held at a time: ancestral sampling of a large network with all 1000 timesteps would hold gigabytes."""


class Modulations:
    """``UNet.modulations`` of each distinct (timestep, cond): ``Modulations(unet, timesteps, cond)(t)``.

    Args:
        unet: gives the modulations; the rest of it is not used.
        timesteps: in the order in which they will be asked for.
        cond: (B, W). Rows that are equal are computed once.
        limit: bytes to hold at a time; what does not fit is computed when its turn comes.
    """

    def __init__(self, unet: UNet, timesteps: Sequence[int], cond: Tensor, limit: int = BYTES) -> None:
        self._unet = unet
        self._distinct, self._which = cond.unique(dim=0, return_inverse=True)
        together = max(1, limit // (4 * unet.modulation_width * len(self._distinct)))
        self._groups = [timesteps[start : start + together] for start in range(0, len(timesteps), together)]
        self._held: dict[int, Tensor] = {}

    def __call__(self, t: int) -> Tensor:
        """Of timestep ``t`` for each row of cond: (B, M)."""
        if t not in self._held:
            self._held = self._computed(next(group for group in self._groups if t in group))
        return self._held[t][self._which]

    def _computed(self, timesteps: Sequence[int]) -> dict[int, Tensor]:
        count = len(self._distinct)
        t = torch.tensor(timesteps, device=self._distinct.device).repeat_interleave(count)
        modulations = self._unet.modulations(t, self._distinct.repeat(len(timesteps), 1))
        return dict(zip(timesteps, modulations.split(count), strict=True))

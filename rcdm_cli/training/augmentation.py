"""Training images changed at random, for sets so small that a denoiser learns them by heart."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import tau

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.data.augment import with_brightness, with_contrast, with_hue, with_saturation
from rcdm_cli.data.encode import EncoderFunction, encode_images
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.training.recipe import RandomChanges

Pixels = NDArray[np.uint8]

AMOUNTS = 7
"""Of a change: zoom, place of the crop (right, down), brightness, contrast, saturation, hue."""
TOLD = 8
"""What is told of it: the same, but for hue, which is a point on a circle."""
_HAPPEN_TOGETHER = (0, 0, 0, 1, 2, 3, 4)


class RandomViews:
    """Changes images, and computes the representations of what comes of it.

    Args:
        plan: which changes, and how large.
        images: uint8 (N, P, P, 3).
        encoders: one for each method of ``projections``.
        projections: what representations are taken of.
        device: where encoders run.
    """

    def __init__(
        self,
        plan: RandomChanges,
        images: Pixels,
        encoders: Sequence[Encoder],
        projections: Sequence[Representation],
        device: torch.device,
    ) -> None:
        self.plan, self.images, self.projections, self.device = plan, images, projections, device
        self.encoders = {encoder.spec.method: encoder.to(device) for encoder in encoders}
        # Pillow lets other threads run while it works.
        self._pool = ThreadPoolExecutor()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Amounts of the changes to ``count`` images, (count, AMOUNTS), as shares of the largest; all 0 for no change.

        Zoom is within 0..1, the others within -1..1.
        """
        plan = self.plan
        largest = torch.tensor([1 - plan.crop] * 3 + [plan.brightness, plan.contrast, plan.saturation, plan.hue])
        amounts = torch.rand(count, AMOUNTS, generator=generator) * 2 - 1
        amounts[:, 0].abs_()
        happens = torch.rand(count, max(_HAPPEN_TOGETHER) + 1, generator=generator) < plan.probability
        return amounts * happens[:, _HAPPEN_TOGETHER] * (largest > 0)

    def told(self, amounts: Tensor) -> Tensor:
        """What the denoiser is told of ``amounts`` (B, AMOUNTS): (B, TOLD), all 0 for no change."""
        angle = tau * self.plan.hue * amounts[:, -1:]
        return torch.cat([amounts[:, :-1], angle.cos() - 1, angle.sin()], dim=1)

    def views(self, index: Tensor, flip: Tensor, amounts: Tensor) -> list[Pixels]:
        """The images ``index`` (B,), mirrored where ``flip`` (B,), then changed by ``amounts``: squares of any size."""
        return list(self._pool.map(self._view, index.tolist(), flip.tolist(), amounts.tolist()))

    def representations(self, views: Sequence[Pixels], projection: int) -> Tensor:
        """Return ``h`` (B, D) of views at ``projections[projection]``, on the CPU."""
        encoder, level = self.encoders[self.projections[projection].method], self.projections[projection].level
        levels = encode_images(EncoderFunction(encoder, encoder.spec.preprocessing.size), views, self.device)
        return levels[encoder.spec.levels.index(level)]

    def _view(self, index: int, flip: bool, amounts: Sequence[float]) -> Pixels:
        plan, image = self.plan, self.images[index]
        zoom, right, down, brightness, contrast, saturation, hue = amounts
        side = plan.side(zoom)
        left, top = (round((len(image) - side) * (1 + place) / 2) for place in (right, down))
        view = np.ascontiguousarray((image[:, ::-1] if flip else image)[top : top + side, left : left + side])
        # Pillow rounds, so that a change of amount 0 would be one.
        if brightness:
            view = with_brightness(view, 1 + plan.brightness * brightness)
        if contrast:
            view = with_contrast(view, 1 + plan.contrast * contrast)
        if saturation:
            view = with_saturation(view, 1 + plan.saturation * saturation)
        if hue:
            view = with_hue(view, plan.hue * hue)
        return view

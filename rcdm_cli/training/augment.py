"""Training photos changed at random, for sets so small that a denoiser learns them by heart."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.images.crop import center_crop
from rcdm_cli.training.recipe import Augmentation
from rcdm_cli.training.representations import represent

Pixels = NDArray[np.uint8]

AMOUNTS = 7
"""What is told of a change: zoom, place of the crop (right, down), brightness, contrast, saturation, hue."""
_DRAWN_TOGETHER = (0, 0, 0, 1, 2, 3, 4)


class Augmenter:
    """Changes photos, and computes the representations of what comes of it.

    Args:
        plan: which changes, and how large.
        photos: uint8 (N, P, P, 3), larger than any network's, so that crops lose no detail.
        encoders: one for each method of ``rows``.
        rows: what representations are taken of.
        device: where encoders run.
    """

    def __init__(
        self,
        plan: Augmentation,
        photos: Pixels,
        encoders: Sequence[Encoder],
        rows: Sequence[Representation],
        device: torch.device,
    ) -> None:
        self.plan, self.photos, self.rows, self.device = plan, photos, rows, device
        self.encoders = {encoder.spec.method: encoder for encoder in encoders}

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Amounts of the changes to ``count`` photos, (count, AMOUNTS), as shares of the largest; all 0 for no change.

        Zoom is within 0..1, the others within -1..1.
        """
        plan = self.plan
        largest = torch.tensor([1 - plan.crop] * 3 + [plan.brightness, plan.contrast, plan.saturation, plan.hue])
        amounts = torch.rand(count, AMOUNTS, generator=generator) * 2 - 1
        amounts[:, 0].abs_()
        done = torch.rand(count, max(_DRAWN_TOGETHER) + 1, generator=generator) < plan.probability
        return amounts * done[:, _DRAWN_TOGETHER] * (largest > 0)

    def views(self, index: Tensor, flip: Tensor, amounts: Tensor) -> list[Pixels]:
        """The photos ``index`` (B,) changed by ``amounts`` and mirrored where ``flip`` (B,): squares of any size."""
        given = zip(index.tolist(), flip.tolist(), amounts.tolist(), strict=True)
        return [self._view(self.photos[photo], turn, *amount) for photo, turn, amount in given]

    @torch.no_grad()
    def representations(self, views: Sequence[Pixels], row: int) -> Tensor:
        """``h`` (B, D) of views at ``rows[row]``."""
        encoder, level = self.encoders[self.rows[row].method], self.rows[row].level
        size = encoder.spec.preprocessing.size
        photos = np.stack([center_crop(view, size) for view in views])
        levels = represent(encoder, photos, np.zeros(len(photos), bool), self.device)
        return levels[encoder.spec.levels.index(level)]

    def _view(
        self,
        photo: Pixels,
        turn: bool,
        zoom: float,
        right: float,
        down: float,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
    ) -> Pixels:
        plan, size = self.plan, len(photo)
        side = round(size * (1 - (1 - plan.crop) * zoom))
        left, top = (round((size - side) * (1 + place) / 2) for place in (right, down))
        view = torch.from_numpy(photo[top : top + side, left : left + side].transpose(2, 0, 1).copy())
        # Changes of amount 0 are left out, since some of them round.
        if brightness:
            view = transforms.adjust_brightness(view, 1 + plan.brightness * brightness)
        if contrast:
            view = transforms.adjust_contrast(view, 1 + plan.contrast * contrast)
        if saturation:
            view = transforms.adjust_saturation(view, 1 + plan.saturation * saturation)
        if hue:
            view = transforms.adjust_hue(view, plan.hue * hue)
        if turn:
            view = transforms.horizontal_flip(view)
        return np.ascontiguousarray(view.permute(1, 2, 0).numpy())

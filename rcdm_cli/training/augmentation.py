"""Non-leaky augmentation of training images (Karras et al. 2022, arXiv:2206.00364, appendix F.2)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from math import tau
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.data.array_file import Rows
from rcdm_cli.data.augment import with_brightness, with_contrast, with_hue, with_saturation
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.training.recipe import AugmentationConfig

NUM_PARAMS = 7
"""Augmentation parameters: zoom, crop position (right, down), brightness, contrast, saturation, hue."""
AUG_COND_WIDTH = 8
"""Width of the augmentation conditioning: the parameters, with the hue as a point on a circle."""
_DECISION = (0, 0, 0, 1, 2, 3, 4)
"""Index of the random decision that enables each parameter. Zoom and crop position share one decision."""


class Augmenter:
    """Random augmentation of training images.

    Args:
        config: augmentations and their maximum strengths.
        images: uint8 (N, P, P, 3), ``config.image_size`` pixels.
    """

    def __init__(self, config: AugmentationConfig, images: Pixels) -> None:
        self.config, self.images = config, Rows(images)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Threads of this process. Pillow releases the interpreter lock."""
        return ThreadPoolExecutor()

    def __getstate__(self) -> dict[str, Any]:
        # Threads belong to one process.
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw augmentation parameters (count, NUM_PARAMS), as fractions of the maximum; 0 is no augmentation.

        Zoom is in 0..1, the other parameters are in -1..1.
        """
        config = self.config
        strengths = [1 - config.crop] * 3 + [config.brightness, config.contrast, config.saturation, config.hue]
        params = torch.rand(count, NUM_PARAMS, generator=generator) * 2 - 1
        params[:, 0].abs_()
        applied = torch.rand(count, max(_DECISION) + 1, generator=generator) < config.probability
        return params * applied[:, _DECISION] * (torch.tensor(strengths) > 0)

    def aug_cond(self, params: Tensor) -> Tensor:
        """Return the augmentation conditioning (B, AUG_COND_WIDTH) of ``params`` (B, NUM_PARAMS); zeros for zeros."""
        angle = tau * self.config.hue * params[:, -1:]
        return torch.cat([params[:, :-1], angle.cos() - 1, angle.sin()], dim=1)

    def apply(self, index: Tensor, flip: Tensor, params: Tensor) -> list[Pixels]:
        """Flip the images ``index`` (B,) where ``flip`` (B,) is True, and augment them; the sizes of crops differ."""
        images = self.images.take(index.numpy())
        return list(self._pool.map(self._apply_one, images, flip.tolist(), params.tolist()))

    def _apply_one(self, image: Pixels, flip: bool, params: Sequence[float]) -> Pixels:
        config = self.config
        zoom, right, down, brightness, contrast, saturation, hue = params
        side = config.side(zoom)
        left, top = (round((len(image) - side) * (1 + position) / 2) for position in (right, down))
        augmented = np.ascontiguousarray((image[:, ::-1] if flip else image)[top : top + side, left : left + side])
        # A strength of 0 is skipped, because Pillow rounds.
        if brightness:
            augmented = with_brightness(augmented, 1 + config.brightness * brightness)
        if contrast:
            augmented = with_contrast(augmented, 1 + config.contrast * contrast)
        if saturation:
            augmented = with_saturation(augmented, 1 + config.saturation * saturation)
        if hue:
            augmented = with_hue(augmented, config.hue * hue)
        return augmented

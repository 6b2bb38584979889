"""Images and representations of a denoiser's training step, read by worker processes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rcdm_cli.data.array_file import Rows
from rcdm_cli.data.crop import center_crop
from rcdm_cli.training.augmentation import NUM_PARAMS, Augmenter
from rcdm_cli.training.batches import batch_indices, generator
from rcdm_cli.training.recipe import Optimization
from rcdm_cli.training.representations import Representations


class Group(NamedTuple):
    """Images of a part that are conditioned on one representation.

    Attributes:
        projection: index of the conditioning projection.
        h: cached representations (B, D). The rows ``augmented`` are replaced by the representations of ``crops``.
        augmented: positions (C,) of augmented images in the group.
        crops: augmented images at the input size of the encoder, uint8 (C, S, S, 3).
    """

    projection: int
    h: Tensor
    augmented: Tensor
    crops: Tensor


class Part(NamedTuple):
    """Part of a batch, for one forward and backward pass.

    Attributes:
        position: positions (B,) of the images in the batch of all processes.
        images: uint8 (B, size, size, 3); with latents, the augmented images (C, size, size, 3) only.
        augmented: positions (C,) of augmented images in the part.
        latents: cached latents, float16 (B, C, h, w), of flipped images; empty without a latent space. The rows
            ``augmented`` are replaced by the latents of ``images``.
        flip: whether to flip an image horizontally, (B,). Augmented images are already flipped.
        aug_params: augmentation parameters (B, NUM_PARAMS).
        groups: images by conditioning projection, in the order of the part.
    """

    position: Tensor
    images: Tensor
    augmented: Tensor
    latents: Tensor
    flip: Tensor
    aug_params: Tensor
    groups: list[Group]


class StepData(Dataset[list[Part]]):
    """Map from the number of a step to the parts of this process.

    Everything depends on seed and step. Image k of the batch is the same with any number of processes and parts.

    Args:
        plan: batch size, number of parts and seed.
        images: training images at the denoiser's size, uint8 (N, size, size, 3).
        representations: representations of the images.
        augmenter: random augmentation of the images.
        input_sizes: input size of the encoder of each projection, for augmented images.
        rank: index of this process.
        world_size: number of processes.
        latents: latents of the images and their mirror images, (2 N, C, h, w), for a latent space.
    """

    def __init__(
        self,
        plan: Optimization,
        images: np.ndarray,
        representations: Representations,
        augmenter: Augmenter | None = None,
        input_sizes: Sequence[int] = (),
        rank: int = 0,
        world_size: int = 1,
        latents: Rows | None = None,
    ) -> None:
        self.plan, self.images, self.representations = plan, Rows(images), representations
        self.augmenter, self.input_sizes, self.latents = augmenter, input_sizes, latents
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, step: int) -> list[Part]:
        """Return the parts of step ``step``: at most ``plan.accumulate``."""
        batch, projections = self.plan.batch, len(self.representations.projections)
        index = batch_indices(step, len(self.images), batch, self.plan.seed)
        flip = torch.rand(batch, generator=generator("flip", self.plan.seed, step)) < 0.5
        # Rotation by one per step gives all projections equal parts if the batch is not a multiple of their number.
        projection = (torch.arange(batch) * projections // batch + step) % projections
        aug_params = torch.zeros(batch, NUM_PARAMS)
        if self.augmenter:
            aug_params = self.augmenter.draw(batch, generator("augmentation", self.plan.seed, step))
        own = torch.arange(batch)[self.rank :: self.world_size]
        return [
            self._part(position, *(values[position] for values in (index, flip, projection, aug_params)))
            for position in own.chunk(self.plan.accumulate)
        ]

    def _part(self, position: Tensor, index: Tensor, flip: Tensor, projection: Tensor, aug_params: Tensor) -> Part:
        size = self.images.array.shape[1]
        changed_images: dict[int, np.ndarray] = {}
        groups = []
        for number in projection.unique_consecutive().tolist():
            members = (projection == number).nonzero()[:, 0]
            h = self.representations.take(number, index[members], flip[members])
            augmented, crops = torch.empty(0, dtype=torch.int64), torch.empty(0, 1, 1, 3, dtype=torch.uint8)
            if self.augmenter:
                augmented = aug_params[members].any(dim=1).nonzero()[:, 0]
            if self.augmenter and len(augmented):
                which = members[augmented]
                changed = self.augmenter.apply(index[which], flip[which], aug_params[which])
                crops_of_denoiser = (center_crop(image, size) for image in changed)
                changed_images |= zip(which.tolist(), crops_of_denoiser, strict=True)
                crops = torch.from_numpy(np.stack([center_crop(image, self.input_sizes[number]) for image in changed]))
            groups.append(Group(number, h, augmented, crops))
        where = torch.tensor(list(changed_images), dtype=torch.int64)
        flipped_later, latents = flip.clone(), torch.empty(0)
        flipped_later[where] = False
        new = np.stack(list(changed_images.values())) if changed_images else np.empty((0, size, size, 3), np.uint8)
        if self.latents is None:
            images = self.images.take(index.numpy())
            images[where.numpy()] = new
        else:
            images, latents = new, torch.from_numpy(self.latents.take((2 * index + flip).numpy()))
        return Part(position, torch.from_numpy(images), where, latents, flipped_later, aug_params, groups)

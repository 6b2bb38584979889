"""Evaluate a denoiser during training: sample grid, and loss on a fixed set of draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.precision import autocast
from rcdm_cli.data.image_file import write_png
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid
from rcdm_cli.data.tensor import to_tensor, to_uint8
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.losses import denoising_loss
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.samplers import SAMPLERS
from rcdm_cli.diffusion.sampling import denoiser_of
from rcdm_cli.diffusion.schedule import Schedule, spacing
from rcdm_cli.diffusion.space import decode_x0, encode_x0
from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.training.batches import draw_timesteps, generator
from rcdm_cli.training.latents import CachedLatents
from rcdm_cli.training.recipe import TrainPrecision
from rcdm_cli.training.representations import Representations

NUM_DRAWS = 2048
"""Number of (image, timestep, representation) draws of the loss. A smaller set of images is repeated."""
BATCH = 64
GRID_IMAGES = 8
GRID_STEPS = 15


@dataclass(frozen=True)
class EvalSet:
    """Images and their representations.

    Attributes:
        images: uint8 (N, size, size, 3).
        representations: representations of the images.
        device: device of the model.
        names: names of the images, which the noise of samples depends on; by default the indices.
        latents: latents of the images, for a latent space.
    """

    images: np.ndarray
    representations: Representations
    device: torch.device
    names: Sequence[str] | None = None
    latents: CachedLatents | None = None

    @torch.no_grad()
    def loss(self, model: Model, schedule: Schedule, precision: TrainPrecision) -> float:
        """Return the mean loss over images, timesteps and representations, with the same draws in each call."""
        projections = len(self.representations.projections)
        draw = generator("evaluation loss", 0)
        images = (torch.arange(NUM_DRAWS) * len(self.images) // NUM_DRAWS)[torch.randperm(NUM_DRAWS, generator=draw)]
        projection = torch.arange(BATCH) * projections // BATCH
        total = 0.0
        for index in images.split(BATCH):
            t = draw_timesteps(BATCH, len(schedule), draw)
            x0 = self._x0(model.denoiser.spec, index)
            noise = torch.randn(x0.shape, generator=draw)
            noise, t = noise.to(self.device), t.to(self.device)
            x_t = schedule.add_noise(x0, t, noise)
            groups = [(r, self._h(r, index[projection == r])) for r in projection.unique_consecutive().tolist()]
            with autocast(precision, self.device):
                output = model.denoiser(x_t, t, model.conditioning.mixed(groups))
            total += float(denoising_loss(model.denoiser.spec, schedule, output, x0, x_t, t, noise).sum())
        return total / NUM_DRAWS

    @torch.no_grad()
    def write_sample_grid(
        self,
        model: Model,
        schedule: Schedule,
        path: Path,
        sampler: str = "dpmpp",
        steps: int = GRID_STEPS,
        scale: float = 1.0,
    ) -> None:
        """Write a PNG with one row per image and one column per representation, with the same noise in each call.

        ``scale`` is the guidance scale of a student that receives the scale as an input.
        """
        index = torch.linspace(0, len(self.images) - 1, min(GRID_IMAGES, len(self.images))).long()
        spec, codec = model.denoiser.spec, self.latents.codec if self.latents else None
        names = map(str, index.tolist()) if self.names is None else (self.names[image] for image in index.tolist())
        seeds = [sample_seed(0, name, 0) for name in names]
        noise = initial_noise(seeds, spec.input_shape).to(self.device, memory_format=torch.channels_last)
        run, kind, _ = SAMPLERS[sampler]
        timesteps = spacing(kind, schedule, min(steps, len(schedule)))
        columns = [self.images[index.numpy()]]
        for number in range(len(self.representations.projections)):
            cond = model.conditioning(self._h(number, index), number)
            if model.conditioning.guidance is not None:
                cond = cond + model.conditioning.guidance(torch.full((len(cond),), scale, device=self.device))
            denoise = denoiser_of(model.denoiser, schedule, cond)
            x0 = run(denoise, noise, schedule, timesteps, clip=codec is None)
            columns.append(to_uint8(decode_x0(spec, x0, codec)))
        titles = ["image", *(f"{each.method}\n{each.level}" for each in self.representations.projections)]
        rows = [GridRow(images) for images in zip(*columns, strict=True)]
        write_png(path, draw_grid(PixelGrid(rows, [GridGroup(title, 1) for title in titles])))

    def _x0(self, spec: DenoiserSpec, index: Tensor) -> Tensor:
        if self.latents is not None:
            return self.latents.x0(index)
        return encode_x0(spec, to_tensor(self.images[index.numpy()]).to(self.device), None)

    def _h(self, projection: int, index: Tensor) -> Tensor:
        return (
            self.representations.take(projection, index, torch.zeros_like(index, dtype=torch.bool))
            .to(self.device)
            .float()
        )

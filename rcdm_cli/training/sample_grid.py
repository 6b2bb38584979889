"""The sample grid of a training run: the same images and the same noise each time, so that grids compare."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rcdm_cli.data.image_file import write_png
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid
from rcdm_cli.data.tensor import to_uint8
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.prediction import denoiser_of
from rcdm_cli.diffusion.samplers import dpmpp
from rcdm_cli.diffusion.schedule import Schedule, spacing
from rcdm_cli.training.representations import Representations

NUM_IMAGES = 8
STEPS = 15


@dataclass(frozen=True)
class SampleGrid:
    """Draws a grid of averaged weights: a row for each of eight training images, a column for each row of ``h``."""

    images: np.ndarray
    representations: Representations
    device: torch.device

    @torch.no_grad()
    def write(self, model: Model, schedule: Schedule, path: Path) -> None:
        """Sample one image for each image and each (method, level), and write the grid as a PNG."""
        index = torch.linspace(0, len(self.images) - 1, min(NUM_IMAGES, len(self.images))).long()
        size = model.denoiser.spec.size
        seeds = [sample_seed(0, int(image), 0) for image in index]
        noise = initial_noise(seeds, (3, size, size)).to(self.device, memory_format=torch.channels_last)
        timesteps = spacing("logsnr", schedule, min(STEPS, len(schedule)))
        columns = []
        for row in range(len(self.representations.projections)):
            h = self.representations.take(row, index, torch.zeros_like(index, dtype=torch.bool))
            cond = model.conditioning(h.to(self.device), row)
            columns.append(to_uint8(dpmpp(denoiser_of(model.denoiser, schedule, cond), noise, schedule, timesteps)))
        rows = [GridRow([self.images[int(image)], *(column[k] for column in columns)]) for k, image in enumerate(index)]
        names = [GridGroup(f"{row.method}\n{row.level}", 1) for row in self.representations.projections]
        write_png(path, draw_grid(PixelGrid(rows, [GridGroup("image", 1), *names])))

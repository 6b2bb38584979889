"""What a denoiser has learned by heart: its loss on images that it is trained on, and on others."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.losses import hybrid_loss, simple_loss
from rcdm_cli.diffusion.prediction import target
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.training.batches import generator, stratified_timesteps
from rcdm_cli.training.optim import autocast
from rcdm_cli.training.recipe import Precision
from rcdm_cli.training.representations import Representations

DRAWS = 2048
"""Images, each at one timestep and one representation; where there are fewer, some are drawn again."""
BATCH = 64


def denoising_loss(
    model: Model, schedule: Schedule, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """The loss that fits the network: hybrid with a learned variance, else simple. float32 (B,); see ``losses``."""
    spec = model.denoiser.spec
    if spec.learned_variance:
        return hybrid_loss(output, noise, x0, x_t, t, schedule)
    return simple_loss(output, target(spec.prediction, schedule, x0, t, noise))


@dataclass(frozen=True)
class EvalSet:
    """Images that a loss is taken on: uint8 (N, size, size, 3), and their representations."""

    images: np.ndarray
    representations: Representations

    @torch.no_grad()
    def loss(self, model: Model, schedule: Schedule, precision: Precision, device: torch.device) -> float:
        """The mean loss of ``DRAWS`` images, spread over all of them, over timesteps and representations.

        Timesteps and noise are the same each time, so that the losses of a run compare.
        """
        projections = len(self.representations.projections)
        draw = generator(0, 6)
        images = (torch.arange(DRAWS) * len(self.images) // DRAWS)[torch.randperm(DRAWS, generator=draw)]
        total = 0.0
        for index in images.split(BATCH):
            t = stratified_timesteps(BATCH, len(schedule), draw)
            projection = torch.arange(BATCH) * projections // BATCH
            x0 = to_tensor(self.images[index.numpy()])
            noise = torch.randn(x0.shape, generator=draw)
            x0, noise, t = (value.to(device) for value in (x0, noise, t))
            x_t = schedule.add_noise(x0, t, noise)
            groups = [
                (
                    r,
                    self.representations.take(r, index[projection == r], torch.zeros_like(index[projection == r])).to(
                        device
                    ),
                )
                for r in projection.unique_consecutive().tolist()
            ]
            with autocast(precision, device):
                output = model.denoiser(x_t, t, model.conditioning.mixed(groups))
            total += float(denoising_loss(model, schedule, output, x0, x_t, t, noise).sum())
        return total / DRAWS

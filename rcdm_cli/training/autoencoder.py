"""Train an ``AutoencoderKL`` on images: absolute error, perceptual loss and KL divergence of the latents."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.data import Dataset

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.precision import autocast
from rcdm_cli.data.array_file import Array, Rows
from rcdm_cli.data.image_file import write_png
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid
from rcdm_cli.data.loader import load_batches
from rcdm_cli.data.tensor import to_float, to_uint8
from rcdm_cli.diffusion.autoencoder import Autoencoder
from rcdm_cli.diffusion.autoencoder_files import save_for_diffusers
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.training import distributed
from rcdm_cli.training.batches import batch_indices, generator
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.optimizer import adamw, set_learning_rate
from rcdm_cli.training.recipe import AutoencoderRecipe

GRID_IMAGES = 8
EVALUATION_IMAGES = 256
"""Largest number of images for the reconstruction error and for the scale of the latents."""
BATCH = 32
"""Images per forward pass of an evaluation."""


class PerceptualDistance(nn.Module):
    """Distance of the features of two images at several layers; see ``recipe.PerceptualLoss``.

    Args:
        encoder: encoder in evaluation mode. Gradients flow to the images; the weights are constant.
        layers: layers by module path; by default, all stages of a timm trunk.

    Raises:
        InputError: the encoder is an ONNX graph, has no such layer, or has no stages.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[str] = ()) -> None:
        super().__init__()
        method = encoder.spec.method
        if encoder.spec.onnx_widths:
            raise InputError(f"The encoder {method!r} of the perceptual loss is an ONNX graph, which has no gradient.")
        modules = dict(encoder.trunk.named_modules())
        stages: Any = getattr(encoder.trunk, "feature_info", [])
        self.layers = tuple(layers) or tuple(dict.fromkeys(stage["module"] for stage in stages))
        if missing := [layer for layer in self.layers if layer not in modules]:
            raise InputError(f"The encoder {method!r} of the perceptual loss has no layer {', '.join(missing)}.")
        if not self.layers:
            raise InputError(f"The encoder {method!r} has no stages. Name the layers of the perceptual loss.")
        self.encoder = encoder.eval().requires_grad_(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Return the distance (B,) of images (B, 3, H, W) in [-1, 1]; the sum over layers, from 0 to 4 each."""
        with self._features() as found:
            self.encoder.trunk(self.encoder.preprocess(torch.cat([images, others])))
        distance = torch.zeros(len(images), device=images.device)
        for features in found.values():
            first, second = F.normalize(features.float(), dim=1).chunk(2)
            distance = distance + (first - second).square().sum(dim=1).flatten(1).mean(dim=1)
        return distance

    @contextmanager
    def _features(self) -> Iterator[dict[str, Tensor]]:
        """Collect the outputs (B, C, ...) of the layers during a forward pass. Tokens (B, N, C) are transposed."""
        found: dict[str, Tensor] = {}

        def store(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                # A later layer may change the output in place.
                found[name] = (output.transpose(1, 2) if output.ndim == 3 else output).clone()

            return hook

        modules = dict(self.encoder.trunk.named_modules())
        hooks = [modules[layer].register_forward_hook(store(layer)) for layer in self.layers]
        try:
            yield found
        finally:
            for each in hooks:
                each.remove()


class _RandomCrops(Dataset[Tensor]):
    """Map from the number of a step to images uint8 (B, size, size, 3) of this process, cropped and flipped."""

    def __init__(self, recipe: AutoencoderRecipe, images: Array) -> None:
        self.recipe, self.images = recipe, Rows(images)
        self.ranks = distributed.rank(), distributed.world_size()

    def __getitem__(self, step: int) -> Tensor:
        plan, size = self.recipe.optimization, self.recipe.size
        rank, world_size = self.ranks
        index = batch_indices(step, len(self.images), plan.batch, plan.seed)
        # Zoom, position (right, down) and flip.
        draws = torch.rand(plan.batch, 4, generator=generator("autoencoder crops", plan.seed, step))
        own = self.images.take(index[rank::world_size].numpy())
        crops = map(_crop, own, draws[rank::world_size].tolist(), [size] * len(own))
        return torch.from_numpy(np.stack(list(crops)))


def _crop(image: Array, draws: Sequence[float], size: int) -> Array:
    zoom, right, down, flip = draws
    side = round(size + zoom * (len(image) - size))
    left, top = (round(position * (len(image) - side)) for position in (right, down))
    cut = image[top : top + side, left : left + side]
    resized = np.array(Image.fromarray(np.ascontiguousarray(cut)).resize((size, size), Image.Resampling.BICUBIC))
    return resized[:, ::-1] if flip < 0.5 else resized


class _TrainingAutoencoder(nn.Module):
    """Autoencoder whose forward pass samples from the posterior, for DistributedDataParallel."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions (B, 3, size, size) and the KL divergence of the latents in nats, (B,)."""
        mean, log_variance = self.autoencoder.posterior(images)
        assert log_variance is not None, "an AutoencoderKL has a variance"
        mean, log_variance = mean.float(), log_variance.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3))
        return self.autoencoder.decode(mean + (0.5 * log_variance).exp() * noise).float(), divergence


@dataclass(frozen=True)
class AutoencoderImages:
    """Images for the training of an autoencoder.

    Attributes:
        training: uint8 (N, P, P, 3), ``recipe.image_size`` pixels.
        evaluation: uint8 (M, size, size, 3): validation images, or a part of the training images.
        fingerprint: hash of the training images.
    """

    training: Array
    evaluation: Array
    fingerprint: str


class AutoencoderTrainer:
    """Trainer of an ``AutoencoderKL``, for ``loop.fit``.

    Args:
        recipe: settings.
        images: training images and evaluation images.
        device: device to train on.
        perceptual: encoder of the perceptual loss, if the recipe has one.
        workers: number of processes that crop images; 0 crops them in this process.
    """

    def __init__(
        self,
        recipe: AutoencoderRecipe,
        images: AutoencoderImages,
        device: torch.device,
        perceptual: Encoder | None = None,
        workers: int = 0,
    ) -> None:
        self.recipe, self.images, self.device, self.workers = recipe, images, device, workers
        self.plan, self.steps, self.description = recipe.optimization, recipe.steps, recipe.description
        self.images_per_step = self.plan.batch
        torch.manual_seed(self.plan.seed)
        self.model = Autoencoder(recipe.autoencoder).to(device).to(memory_format=torch.channels_last)
        self.ema_model = Autoencoder(recipe.autoencoder).to(device).to(memory_format=torch.channels_last)
        self.ema_model.load_state_dict(self.model.state_dict())
        self.ema_model.eval().requires_grad_(False)
        self.distance = None
        if recipe.perceptual and perceptual:
            self.distance = PerceptualDistance(perceptual.to(device), recipe.perceptual.layers)
        self.optimizer = adamw(self.model.parameters(), self.plan)
        self.network = distributed.data_parallel(_TrainingAutoencoder(self.model), self.plan.gradient_compression)

    def resume_key(self) -> dict[str, object]:
        """Return the images and the recipe, without the settings that may change between parts of a run."""
        excluded: Any = dict.fromkeys(("steps", "save_every", "sample_every", "description"), True)
        excluded |= {"optimization": {"gradient_compression"}}
        return {"recipe": self.recipe.model_dump(mode="json", exclude=excluded), "images": self.images.fingerprint}

    def setup(self, step: int) -> None:
        """Read batches from step ``step``."""
        crops = _RandomCrops(self.recipe, self.images.training)
        self.batches = load_batches(crops, range(step, self.steps), self.device, self.workers)

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """Do one optimizer step."""
        with record_function("train: data"):
            images = to_float(next(self.batches))
        rank, world_size = distributed.rank(), distributed.world_size()
        channels, side = self.recipe.autoencoder.latent_channels, self.recipe.size // self._factor
        draw = generator("autoencoder posterior", self.plan.seed, step, device=self.device)
        noise = torch.randn(self.plan.batch, channels, side, side, generator=draw, device=self.device)
        lr = self.plan.learning_rate(step, self.steps)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        with distributed.explain_lost_process():
            with record_function("train: forward"), autocast(self.plan.precision, self.device):
                reconstructed, divergence = self.network(images, noise[rank::world_size])
                terms = {"absolute_error": (reconstructed - images).abs().mean(dim=(1, 2, 3)), "kl": divergence}
                loss = terms["absolute_error"] + self.recipe.kl_weight / images[0].numel() * divergence
                if self.distance is not None and self.recipe.perceptual is not None:
                    terms["perceptual"] = self.distance(reconstructed, images)
                    loss = loss + self.recipe.perceptual.weight * terms["perceptual"]
            with record_function("train: backward"):
                # DistributedDataParallel divides the sum of the gradients by the number of processes.
                (loss.sum() / self.plan.batch * world_size).backward()
        with record_function("train: optimizer"):
            if self.plan.clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
            self.optimizer.step()
        with record_function("train: ema"), torch.no_grad():
            decay = min(self.recipe.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.ema_model.parameters()), list(self.model.parameters()), 1 - decay)
        terms["loss"] = loss
        means = {name: distributed.all_reduce_sum(v.detach().sum() / self.plan.batch) for name, v in terms.items()}
        return {**means, "lr": lr}

    @property
    def _factor(self) -> int:
        return self.recipe.autoencoder.space.factor

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """Every ``sample_every`` steps and at the end: write the EMA weights and a grid, and return the error.

        The weights are written as diffusers reads them. The error is the peak signal-to-noise ratio in dB of
        reconstructions of the means of the latents.
        """
        if step % self.recipe.sample_every and step != self.steps:
            return {}
        latents, reconstructed = self._reconstruct(self.images.evaluation[:EVALUATION_IMAGES])
        originals = self.images.evaluation[: len(reconstructed)]
        save_for_diffusers(self.ema_model, folder, scale=1 / float(latents.std()))
        rows = [GridRow(pair) for pair in zip(originals[:GRID_IMAGES], reconstructed, strict=False)]
        grid = draw_grid(PixelGrid(rows, [GridGroup("image", 1), GridGroup("reconstruction", 1)]))
        write_png(folder / "samples" / f"step-{step:07d}.png", grid)
        error = np.square(originals.astype(np.float64) - reconstructed).mean()
        return {"psnr": float(10 * np.log10(255**2 / error)) if error else 100.0}

    @torch.no_grad()
    def _reconstruct(self, images: Array) -> tuple[Tensor, Array]:
        """Return the latents and the reconstructions, uint8 (M, size, size, 3), of images by the EMA weights."""
        latents, parts = [], []
        for part in torch.from_numpy(np.array(images)).split(BATCH):
            with autocast(self.plan.precision, self.device):
                latents.append(self.ema_model.encode(to_float(part.to(self.device))).float())
                parts.append(to_uint8(self.ema_model.decode(latents[-1]) + 1 / 255))
        return torch.cat(latents), np.concatenate(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, EMA weights and the optimizer's state."""
        return grouped(
            model=self.model.state_dict(),
            ema=self.ema_model.state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore weights, EMA weights and the optimizer's state."""
        self.model.load_state_dict(checkpoint.group("model"))
        self.ema_model.load_state_dict(checkpoint.group("ema"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))

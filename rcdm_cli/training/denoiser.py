"""Train a denoiser and one conditioning projection per representation."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from rcdm_cli.core.precision import autocast
from rcdm_cli.data.encode import encode_tensor
from rcdm_cli.data.loader import load_batches
from rcdm_cli.data.tensor import to_float
from rcdm_cli.diffusion.conditioning import ConditioningProjection, ConditioningProjections, Model
from rcdm_cli.diffusion.losses import denoising_loss, min_snr_weight
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.space import encode_x0
from rcdm_cli.diffusion.spec import ConditioningSpec
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.training import distributed
from rcdm_cli.training.augmentation import AUG_COND_WIDTH, Augmenter
from rcdm_cli.training.batches import Draws, draw_step, generator
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.evaluation import EvalSet
from rcdm_cli.training.latents import CachedLatents, encode
from rcdm_cli.training.optimizer import adamw, can_compile, set_learning_rate
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.representations import Representations
from rcdm_cli.training.step_data import Group, Part, StepData
from rcdm_cli.training.warm_start import init_from
from rcdm_cli.training.whitening import fold, restandardise, whiten


class _TrainingNetwork(nn.Module):
    """Denoiser, conditioning and augmentation conditioning as one module, for DistributedDataParallel."""

    def __init__(self, denoiser: nn.Module, conditioning: ConditioningProjections, aug_cond: nn.Linear | None) -> None:
        super().__init__()
        self.denoiser, self.conditioning, self.aug_cond = denoiser, conditioning, aug_cond

    def forward(self, x_t: Tensor, t: Tensor, groups: list[tuple[int, Tensor]], dropped: Tensor, aug: Tensor) -> Tensor:
        """Predict from ``x_t`` (B, C, H, W), ``t`` (B,) and the representations of the batch, by projection."""
        cond = self.conditioning.drop(self.conditioning.mixed(groups), dropped)
        if self.aug_cond is not None:
            cond = cond + self.aug_cond(aug)
        # A projection without images in this part of the batch gets the gradient 0, because
        # DistributedDataParallel expects a gradient of every parameter in every process.
        used = {projection for projection, _ in groups}
        for number, projection in enumerate(self.conditioning.projections):
            if number not in used:
                cond = cond + 0 * sum(parameter.sum() for parameter in projection.parameters())
        return cast(Tensor, self.denoiser(x_t, t, cond))


class DenoiserTrainer:
    """Trainer of a denoiser, for ``loop.fit``.

    Every draw of step n comes from a generator seeded with (seed, purpose, n). A resumed run therefore repeats the
    draws of an uninterrupted run. Several processes, each with a shard of the batch, repeat the draws of one process.
    The draws of dropout are an exception: they depend on the process.

    A step on a CUDA device does not wait for the device: batches are copied ahead, and the loss is a tensor.

    Args:
        recipe: settings.
        images: training images at the denoiser's size, uint8 (N, size, size, 3).
        representations: representations of the images.
        latents: latents of the images, for a latent space.
        device: device to train on.
        fingerprint: hash of the images, part of the resume key.
        init: model with the initial weights; random by default.
        init_methods: methods whose conditioning projections are taken from ``init``.
        augmenter: random augmentation of the images.
        encoders: encoders of the augmented images, one per method in ``representations.projections``.
        workers: number of processes that read images and representations; 0 reads in this process.
        validation: images for the validation loss.
        names: names of the images, which the noise of the sample grid depends on; by default the indices.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        images: np.ndarray,
        representations: Representations,
        device: torch.device,
        fingerprint: str,
        *,
        latents: CachedLatents | None = None,
        init: Model | None = None,
        init_methods: Collection[str] = (),
        augmenter: Augmenter | None = None,
        encoders: Sequence[Encoder] = (),
        workers: int = 0,
        validation: EvalSet | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.recipe, self.plan, self.device = recipe, recipe.optimization, device
        self.images, self.representations, self.augmenter, self.latents = images, representations, augmenter, latents
        self.validation, self.fingerprint, self.names = validation, fingerprint, names
        self.steps, self.images_per_step = recipe.steps, self.plan.batch
        self.description = recipe.description
        self.schedule = Schedule(recipe.schedule)
        torch.manual_seed(self.plan.seed)
        self.encoders = {encoder.spec.method: encoder.to(device) for encoder in encoders}
        sizes = [self.encoders[p.method].spec.preprocessing.size for p in representations.projections if augmenter]
        rows = latents.rows if latents else None
        ranks = distributed.rank(), distributed.world_size()
        self.data = StepData(self.plan, images, representations, augmenter, sizes, *ranks, rows)
        self.workers = workers
        spec = ConditioningSpec(
            projections=representations.projections, width=recipe.denoiser.cond_width, null=recipe.objective.null
        )
        self.model, self.ema_model = Model(recipe.denoiser, spec), Model(recipe.denoiser, spec)
        self.init_hash = self._init_weights(init, init_methods)
        self.model.to(device).to(memory_format=torch.channels_last)
        self.ema_model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        # The EMA of the whitened projections. ``ema_model`` has the equivalent plain projections.
        self.ema_conditioning = {name: p.detach().clone() for name, p in self.model.conditioning.named_parameters()}
        # Sampling uses no augmentation conditioning, so this layer is not part of the model.
        self.aug_cond = nn.Linear(AUG_COND_WIDTH, spec.width, bias=False, device=device) if augmenter else None
        self.parameters = list(self.model.parameters())
        if self.aug_cond:
            nn.init.zeros_(self.aug_cond.weight)
            self.parameters += self.aug_cond.parameters()
        self.optimizer = adamw(self.parameters, self.plan)
        compiled = recipe.compile if recipe.compile is not None else can_compile(device)
        # All batches of a run have the same shape, except the last part of a batch that cannot be divided evenly.
        denoiser = torch.compile(self.model.denoiser, dynamic=False) if compiled else self.model.denoiser
        network = _TrainingNetwork(cast(nn.Module, denoiser), self.model.conditioning, self.aug_cond)
        self.network = distributed.data_parallel(
            network, self.plan.gradient_compression, static_graph=self.plan.accumulate == 1 and not compiled
        )

    def _init_weights(self, init: Model | None, init_methods: Collection[str]) -> str:
        """Copy the weights of ``init``, standardise and whiten the projections, and initialise the EMA weights."""
        conditioning = self.model.conditioning
        statistics = [self.representations.statistics(number) for number in range(len(conditioning.projections))]
        moments = [(mean.float(), covariance.diagonal().sqrt().float()) for mean, covariance in statistics]
        for number, (mean, std) in enumerate(moments):
            conditioning.standardise(number, mean, std)
        init_hash = init_from(self.model, init, init_methods) if init else ""
        for number, ((mean, std), (_, covariance)) in enumerate(zip(moments, statistics, strict=True)):
            projection = cast(ConditioningProjection, conditioning.projections[number])
            # This call has no effect on projections that were not copied from ``init``.
            restandardise(projection, mean, std)
            self.ema_model.conditioning.projections[number].load_state_dict(projection.state_dict())
            whiten(conditioning, number, covariance)
        self.ema_model.denoiser.load_state_dict(self.model.denoiser.state_dict())
        return init_hash

    def resume_key(self) -> dict[str, object]:
        """Return projections, images and the recipe, without the settings that may change between parts of a run."""
        excluded: Any = dict.fromkeys(
            ("steps", "save_every", "sample_every", "description", "encoders", "autoencoder"), True
        )
        excluded |= {"compile": True, "optimization": {"gradient_compression"}}
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude=excluded),
            "conditioning": "whitened",
            "projections": [projection.model_dump(mode="json") for projection in self.representations.projections],
            "images": self.fingerprint,
            **({"latents": self.latents.codec.statistics.model_dump(mode="json")} if self.latents else {}),
            **({"init": self.init_hash} if self.init_hash else {}),
        }

    def setup(self, step: int) -> None:
        """Read batches from step ``step``."""
        # All batches have the same shape, so that the fastest convolutions are measured once.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        self.batches = load_batches(self.data, range(step, self.steps), self.device, self.workers)

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """Do one optimizer step. Each projection gets an equal part of the batch."""
        with record_function("train: data"):
            parts = next(self.batches)
        lr = self.plan.learning_rate(step, self.steps)
        set_learning_rate(self.optimizer, lr)
        if self.recipe.denoiser.dropout:
            # Dropout uses the global generator. Processes have different images and need different draws.
            torch.manual_seed(generator("dropout", self.plan.seed, step, distributed.rank()).initial_seed())
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(step, parts)
        with record_function("train: optimizer"):
            if self.plan.clip:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
            self.optimizer.step()
        with record_function("train: ema"):
            self._update_ema(step)
        return {"loss": loss, "lr": lr}

    def _backward(self, step: int, parts: Sequence[Part]) -> Tensor:
        """Compute the gradients of the mean loss over the batch of all processes, and return that loss."""
        draws = draw_step(
            self.plan.seed,
            step,
            (self.plan.batch, *self.recipe.denoiser.input_shape),
            len(self.schedule),
            self.recipe.uncond_prob,
            self.recipe.objective,
            self.device,
        )
        total = torch.zeros((), device=self.device)
        *first, last = parts
        with distributed.explain_lost_process():
            for part in first:
                with distributed.no_sync(self.network):
                    total += self._backward_part(part, draws.select(part.position))
            total += self._backward_part(last, draws.select(last.position))
        return distributed.all_reduce_sum(total)

    def _backward_part(self, part: Part, draws: Draws) -> Tensor:
        with record_function("train: forward"):
            loss = self._losses(part, draws).sum() / self.plan.batch
        with record_function("train: backward"):
            # DistributedDataParallel divides the sum of the gradients by the number of processes.
            (loss * distributed.world_size()).backward()
        return loss.detach()

    def _losses(self, part: Part, draws: Draws) -> Tensor:
        """Return the loss (B,) of each item."""
        x0 = self._x0(part)
        groups = [(group.projection, self._h(group)) for group in part.groups]
        x_t = self.schedule.add_noise(x0, draws.t, draws.noise)
        aug = self.augmenter.aug_cond(part.aug_params) if self.augmenter else part.aug_params
        with autocast(self.plan.precision, self.device):
            output = self.network(x_t, draws.t, groups, draws.dropped, aug)
        spec, objective = self.recipe.denoiser, self.recipe.objective
        weight: Tensor | float = 1.0
        if objective.weight == "min_snr":
            weight = min_snr_weight(self.schedule, draws.t, spec.prediction, objective.min_snr_gamma)
        return denoising_loss(spec, self.schedule, output, x0, x_t, draws.t, draws.noise, weight)

    def _x0(self, part: Part) -> Tensor:
        """Return the flipped and augmented images or latents (B, C, H, W), channels_last, of ``part`` on the device."""
        images = to_float(part.images)
        if self.latents is None:
            flipped = torch.where(part.flip[:, None, None, None], images.flip(3), images)
            return encode_x0(self.recipe.denoiser, flipped, None)
        latents = part.latents.float()
        if len(part.augmented):
            changed = encode(self.latents.codec.autoencoder, images, self.plan.precision)
            latents = latents.index_copy(0, part.augmented, changed)
        return self.latents.codec.normalise(latents).contiguous(memory_format=torch.channels_last)

    def _h(self, group: Group) -> Tensor:
        """Return the representations (B, D) of ``group``, with those of augmented images."""
        h = group.h.float()
        if not len(group.augmented):
            return h
        representation = self.representations.projections[group.projection]
        encoder = self.encoders[representation.method]
        levels = encode_tensor(encoder, group.crops)
        return h.index_copy(0, group.augmented, levels[encoder.spec.levels.index(representation.level)])

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        average = [*self.ema_model.denoiser.parameters(), *self.ema_conditioning.values()]
        torch._foreach_lerp_(average, list(self.model.parameters()), 1 - decay)

    def fold_ema(self) -> None:
        """Update the projections of ``ema_model``.

        The fold is linear in the weights, because the whitener is constant. The fold of the average therefore equals
        the average of the folds.
        """
        fold(self.model.conditioning, self.ema_conditioning, self.ema_model.conditioning)

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """Evaluate the EMA weights every ``sample_every`` steps and at the end.

        Writes a sample grid. With validation images, returns the loss on validation and training images.
        """
        if step % self.recipe.sample_every and step != self.steps:
            return {}
        self.fold_ema()
        training = EvalSet(self.images, self.representations, self.device, self.names, self.latents)
        training.write_sample_grid(self.ema_model, self.schedule, folder / "samples" / f"step-{step:07d}.png")
        if self.validation is None:
            return {}
        return {
            f"{name}_loss": images.loss(self.ema_model, self.schedule, self.plan.precision)
            for name, images in (("validation", self.validation), ("training", training))
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, EMA weights and the optimizer's state."""
        self.fold_ema()
        return grouped(
            model=self.model.state_dict(),
            ema=self.ema_model.state_dict(),
            ema_whitened=self.ema_conditioning,
            aug_cond=self.aug_cond.state_dict() if self.aug_cond else {},
            optimizer=optimizer_tensors(self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore weights, EMA weights and the optimizer's state."""
        self.model.load_state_dict(checkpoint.group("model"))
        self.ema_model.load_state_dict(checkpoint.group("ema"))
        for name, tensor in checkpoint.group("ema_whitened").items():
            self.ema_conditioning[name].copy_(tensor)
        if self.aug_cond:
            self.aug_cond.load_state_dict(checkpoint.group("aug_cond"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))

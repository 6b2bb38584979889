"""Train a denoiser and one conditioning projection per representation."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from rcdm_cli.core.precision import autocast
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.diffusion.conditioning import (
    ConditioningProjection,
    ConditioningProjections,
    Model,
    drop_cond,
)
from rcdm_cli.diffusion.losses import denoising_loss
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ConditioningSpec
from rcdm_cli.training import distributed
from rcdm_cli.training.augmentation import AUG_COND_WIDTH, NUM_PARAMS, Augmenter
from rcdm_cli.training.batches import batch_indices, generator, stratified_timesteps
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.evaluation import EvalSet
from rcdm_cli.training.loop import set_learning_rate
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.representations import Representations
from rcdm_cli.training.warm_start import init_from
from rcdm_cli.training.whitening import folded_parameters, restandardise, whiten


class _Draws(NamedTuple):
    """Random draws of one step; the first dimension of each tensor is the batch."""

    image: Tensor
    flip: Tensor
    projection: Tensor
    t: Tensor
    aug_params: Tensor
    noise: Tensor
    dropped: Tensor

    def select(self, index: Tensor) -> "_Draws":
        """Return the draws of the batch items ``index``."""
        return _Draws(*(values[index] for values in self))


class _TrainingNetwork(nn.Module):
    """Denoiser, conditioning and augmentation conditioning as one module, for DistributedDataParallel."""

    def __init__(self, denoiser: nn.Module, conditioning: ConditioningProjections, aug_cond: nn.Linear | None) -> None:
        super().__init__()
        self.denoiser, self.conditioning, self.aug_cond = denoiser, conditioning, aug_cond

    def forward(self, x_t: Tensor, t: Tensor, groups: list[tuple[int, Tensor]], dropped: Tensor, aug: Tensor) -> Tensor:
        """Predict from ``x_t`` (B, 3, H, W), ``t`` (B,) and the representations of the batch, by projection."""
        cond = drop_cond(self.conditioning.mixed(groups), dropped)
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

    Args:
        recipe: settings.
        images: training images at the denoiser's size, uint8 (N, size, size, 3).
        representations: representations of the images.
        device: device to train on.
        fingerprint: hash of the images, part of the resume key.
        init: model with the initial weights; random by default.
        init_methods: methods whose conditioning projections are taken from ``init``.
        augmenter: random augmentation of the images.
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
        init: Model | None = None,
        init_methods: Collection[str] = (),
        augmenter: Augmenter | None = None,
        validation: EvalSet | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.recipe, self.plan, self.device = recipe, recipe.optimization, device
        self.images, self.representations, self.augmenter = images, representations, augmenter
        self.validation, self.fingerprint, self.names = validation, fingerprint, names
        self.steps, self.images_per_step = recipe.steps, self.plan.batch
        self.description = recipe.description
        self.schedule = Schedule(recipe.schedule)
        torch.manual_seed(self.plan.seed)
        spec = ConditioningSpec(projections=representations.projections, width=recipe.denoiser.cond_width)
        self.model, self.ema_model = Model(recipe.denoiser, spec), Model(recipe.denoiser, spec)
        self.init_hash = self._init_weights(init, init_methods)
        self.model.to(device).to(memory_format=torch.channels_last)
        self.ema_model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        # Sampling uses no augmentation conditioning, so this layer is not part of the model.
        self.aug_cond = nn.Linear(AUG_COND_WIDTH, spec.width, bias=False, device=device) if augmenter else None
        self.parameters = list(self.model.parameters())
        if self.aug_cond:
            nn.init.zeros_(self.aug_cond.weight)
            self.parameters += self.aug_cond.parameters()
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.plan.lr, betas=self.plan.betas, weight_decay=self.plan.weight_decay
        )
        denoiser = cast(nn.Module, torch.compile(self.model.denoiser)) if recipe.compile else self.model.denoiser
        network = _TrainingNetwork(denoiser, self.model.conditioning, self.aug_cond)
        self.network = distributed.data_parallel(network)

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
        excluded = {"steps", "save_every", "sample_every", "description", "encoders", "compile"}
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude=excluded),
            "conditioning": "whitened",
            "projections": [projection.model_dump(mode="json") for projection in self.representations.projections],
            "images": self.fingerprint,
            **({"init": self.init_hash} if self.init_hash else {}),
        }

    def setup(self, step: int) -> None:
        """Do nothing: batches are drawn by step number."""

    def train_step(self, step: int) -> dict[str, float]:
        """Do one optimizer step. Each projection gets an equal part of the batch."""
        lr = self.plan.learning_rate(step, self.steps)
        set_learning_rate(self.optimizer, lr)
        if self.recipe.denoiser.dropout:
            # Dropout uses the global generator. Processes have different images and need different draws.
            torch.manual_seed(generator("dropout", self.plan.seed, step, distributed.rank()).initial_seed())
        draws = self._draw(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(draws)
        if self.plan.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.optimizer.step()
        self._update_ema(step)
        return {"loss": loss, "lr": lr}

    def _backward(self, draws: _Draws) -> float:
        """Compute the gradients of the mean loss over the batch of all processes, and return that loss."""
        total = torch.zeros((), device=self.device)
        *parts, last = distributed.shard(torch.arange(self.plan.batch)).chunk(self.plan.accumulate)
        with distributed.explain_lost_process():
            for part in parts:
                with distributed.no_sync(self.network):
                    total += self._backward_part(draws.select(part))
            total += self._backward_part(draws.select(last))
        return distributed.all_reduce_sum(total).item()

    def _backward_part(self, draws: _Draws) -> Tensor:
        loss = self._losses(draws).sum() / self.plan.batch
        # DistributedDataParallel divides the sum of the gradients by the number of processes.
        (loss * distributed.world_size()).backward()
        return loss.detach()

    def _draw(self, step: int) -> _Draws:
        batch, projections, size = self.plan.batch, len(self.representations.projections), self.recipe.denoiser.size
        index = batch_indices(step, len(self.images), batch, self.plan.seed)
        draw, noise, dropping, augmenting = (
            generator(purpose, self.plan.seed, step) for purpose in ("timesteps", "noise", "uncond", "augmentation")
        )
        return _Draws(
            image=index,
            flip=torch.rand(batch, generator=draw) < 0.5,
            # Rotation by one per step gives all projections equal parts if the batch is not a multiple of their number.
            projection=(torch.arange(batch) * projections // batch + step) % projections,
            t=stratified_timesteps(batch, len(self.schedule), draw),
            aug_params=self.augmenter.draw(batch, augmenting) if self.augmenter else torch.zeros(batch, NUM_PARAMS),
            noise=torch.randn(batch, 3, size, size, generator=noise),
            dropped=torch.rand(batch, generator=dropping) < self.recipe.uncond_prob,
        )

    def _losses(self, draws: _Draws) -> Tensor:
        """Return the loss (B,) of each item."""
        images, groups = self._inputs(draws)
        x0 = to_tensor(images).to(self.device, memory_format=torch.channels_last)
        noise = draws.noise.to(self.device, memory_format=torch.channels_last)
        t = draws.t.to(self.device)
        x_t = self.schedule.add_noise(x0, t, noise)
        aug = (self.augmenter.aug_cond(draws.aug_params) if self.augmenter else draws.aug_params).to(self.device)
        with autocast(self.plan.precision, self.device):
            output = self.network(x_t, t, groups, draws.dropped, aug)
        return denoising_loss(self.recipe.denoiser, self.schedule, output, x0, x_t, t, noise)

    def _inputs(self, draws: _Draws) -> tuple[np.ndarray, list[tuple[int, Tensor]]]:
        """Return flipped and augmented images, and (projection, ``h`` of its images) in the order of the batch."""
        index, flip, params = draws.image, draws.flip, draws.aug_params
        originals = self.images[index.numpy()]
        images = np.where(flip.numpy()[:, None, None, None], originals[:, :, ::-1], originals)
        groups = []
        for number in draws.projection.unique_consecutive().tolist():
            members = (draws.projection == number).nonzero()[:, 0]
            h = self.representations.take(number, index[members], flip[members]).to(self.device)
            changed = params[members].any(dim=1)
            if self.augmenter and changed.any():
                which = members[changed]
                augmented = self.augmenter.apply(index[which], flip[which], params[which])
                images[which.numpy()] = [center_crop(image, self.recipe.denoiser.size) for image in augmented]
                h[changed.to(h.device)] = self.augmenter.encode(augmented, number).to(h.device)
            groups.append((number, h))
        return images, groups

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        current = [*self.model.denoiser.parameters(), *folded_parameters(self.model.conditioning)]
        torch._foreach_lerp_(list(self.ema_model.parameters()), current, 1 - decay)

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """Evaluate the EMA weights every ``sample_every`` steps and at the end.

        Writes a sample grid. With validation images, returns the loss on validation and training images.
        """
        if step % self.recipe.sample_every and step != self.steps:
            return {}
        training = EvalSet(self.images, self.representations, self.device, self.names)
        training.write_sample_grid(self.ema_model, self.schedule, folder / "samples" / f"step-{step:07d}.png")
        if self.validation is None:
            return {}
        return {
            f"{name}_loss": images.loss(self.ema_model, self.schedule, self.plan.precision)
            for name, images in (("validation", self.validation), ("training", training))
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, EMA weights and the optimizer's state."""
        return grouped(
            model=self.model.state_dict(),
            ema=self.ema_model.state_dict(),
            aug_cond=self.aug_cond.state_dict() if self.aug_cond else {},
            optimizer=optimizer_tensors(self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore weights, EMA weights and the optimizer's state."""
        self.model.load_state_dict(checkpoint.group("model"))
        self.ema_model.load_state_dict(checkpoint.group("ema"))
        if self.aug_cond:
            self.aug_cond.load_state_dict(checkpoint.group("aug_cond"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))

"""Train one denoiser, and a conditioning with a projection for each (method, level)."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.diffusion.conditioning import ConditioningProjection, Model, drop_cond
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ConditioningSpec
from rcdm_cli.training.augmentation import AMOUNTS, TOLD, RandomViews
from rcdm_cli.training.batches import batch_indices, generator, stratified_timesteps
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.distributed import Share
from rcdm_cli.training.optim import autocast, learning_rate, set_rate
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.representations import Representations
from rcdm_cli.training.sample_grid import SampleGrid
from rcdm_cli.training.validation import EvalSet, denoising_loss
from rcdm_cli.training.warm_start import init_from
from rcdm_cli.training.whitening import folded_parameters, standardise_anew, whiten


class _Draws(NamedTuple):
    """What chance decides of one step, a batch (B, …) of each."""

    image: Tensor
    flip: Tensor
    projection: Tensor
    t: Tensor
    amounts: Tensor
    noise: Tensor
    dropped: Tensor

    def of(self, part: Tensor) -> "_Draws":
        """The same of a part of the batch, given by places in it."""
        return _Draws(*(values[part] for values in self))


class DenoiserTrainer:
    """A training recipe, as the loop drives it.

    Every draw of step n comes from a generator that is seeded with (seed, purpose, n), so a resumed run
    draws what the run that was not interrupted would have drawn, and several processes with their ``share`` of the
    images what one would, but for dropout. ``start`` and ``known`` are for ``take_over``.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        images: np.ndarray,
        representations: Representations,
        device: torch.device,
        fingerprint: str,
        start: Model | None = None,
        known: Collection[str] = (),
        random_views: RandomViews | None = None,
        validation: EvalSet | None = None,
        share: Share | None = None,
    ) -> None:
        self.recipe, self.plan, self.device = recipe, recipe.optimization, device
        self.images, self.representations, self.random_views = images, representations, random_views
        self.validation, self.share = validation, share or Share()
        self.fingerprint, self.samples = fingerprint, SampleGrid(images, representations, device)
        self.steps, self.images_per_step = recipe.steps, self.plan.batch
        self.description = recipe.description
        self.schedule = Schedule(recipe.schedule)
        torch.manual_seed(self.plan.seed)
        spec = ConditioningSpec(projections=representations.projections, width=recipe.denoiser.cond_width)
        self.model, self.average = Model(recipe.denoiser, spec), Model(recipe.denoiser, spec)
        statistics = [representations.statistics(number) for number in range(len(spec.projections))]
        for number, (mean, covariance) in enumerate(statistics):
            self.model.conditioning.standardise(number, mean.float(), covariance.diagonal().sqrt().float())
        self.start = "" if start is None else init_from(self.model, start, known)
        for number, (mean, covariance) in enumerate(statistics):
            projection = self.model.conditioning.projections[number]
            # Changes only what was taken over.
            standardise_anew(
                cast(ConditioningProjection, projection), mean.float(), covariance.diagonal().sqrt().float()
            )
            self.average.conditioning.projections[number].load_state_dict(projection.state_dict())
            whiten(self.model.conditioning, number, covariance)
        self.average.denoiser.load_state_dict(self.model.denoiser.state_dict())
        self.model.to(device).to(memory_format=torch.channels_last)
        self.average.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        # Tells the denoiser what was changed. Sampling tells it of no change, so this is no part of the model.
        self.tell = nn.Linear(TOLD, spec.width, bias=False, device=device) if random_views else None
        self.parameters = list(self.model.parameters())
        if self.tell:
            nn.init.zeros_(self.tell.weight)
            self.parameters += self.tell.parameters()
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.plan.lr, betas=self.plan.betas, weight_decay=self.plan.weight_decay
        )
        self.denoiser = torch.compile(self.model.denoiser) if recipe.compile else self.model.denoiser

    def resume_key(self) -> dict[str, object]:
        """The recipe less what may change between two parts of a run, the projections and the images."""
        free = {"steps", "save_every", "sample_every", "description", "encoders", "compile"}
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude=free),
            "conditioning": "whitened",
            "projections": [projection.model_dump(mode="json") for projection in self.representations.projections],
            "images": self.fingerprint,
            **({"start": self.start} if self.start else {}),
        }

    def setup(self, step: int) -> None:
        """Nothing to open: batches are drawn by step number."""

    def train_step(self, step: int) -> dict[str, float]:
        """One optimizer step: each (method, level) gets an equal share of the batch."""
        rate = learning_rate(step, self.steps, self.plan, self.plan.lr)
        set_rate(self.optimizer, rate)
        if self.recipe.denoiser.dropout:
            # It draws from torch's own generator; processes, which have other images, must not drop the same.
            torch.manual_seed(generator(self.plan.seed, 6, step, self.share.rank).initial_seed())
        drawn = self._draw(step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in self.share.of(torch.arange(self.plan.batch)).chunk(self.plan.accumulate):
            loss = self._losses(drawn.of(part)).sum() / self.plan.batch
            loss.backward()
            total += loss.detach()
        self.share.add_up([*self._gradients(), total])
        if self.plan.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.optimizer.step()
        self._update_average(step)
        return {"loss": total.item(), "lr": rate}

    def _draw(self, step: int) -> "_Draws":
        batch, projections, size = self.plan.batch, len(self.representations.projections), self.recipe.denoiser.size
        index = batch_indices(step, len(self.images), batch, self.plan.seed)
        draw, noise, dropping, changing = (generator(self.plan.seed, purpose, step) for purpose in (2, 3, 4, 5))
        return _Draws(
            image=index,
            flip=torch.rand(batch, generator=draw) < 0.5,
            # Turning the projections by one each step evens out the shares where the batch does not divide by them.
            projection=(torch.arange(batch) * projections // batch + step) % projections,
            t=stratified_timesteps(batch, len(self.schedule), draw),
            amounts=self.random_views.draw(batch, changing) if self.random_views else torch.zeros(batch, AMOUNTS),
            noise=torch.randn(batch, 3, size, size, generator=noise),
            dropped=torch.rand(batch, generator=dropping) < self.recipe.uncond_prob,
        )

    def _gradients(self) -> list[Tensor]:
        """Those of all parameters; a projection that no image belongs to has zeros, since another process may have one."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [cast(Tensor, parameter.grad) for parameter in self.parameters]

    def _losses(self, drawn: "_Draws") -> Tensor:
        images, groups = self._seen(drawn.image, drawn.flip, drawn.projection, drawn.amounts)
        x0 = to_tensor(images).to(self.device, memory_format=torch.channels_last)
        noise = drawn.noise.to(self.device, memory_format=torch.channels_last)
        t = drawn.t.to(self.device)
        x_t = self.schedule.add_noise(x0, t, noise)
        with autocast(self.plan.precision, self.device):
            cond = drop_cond(self.model.conditioning.mixed(groups), drawn.dropped)
            if self.random_views and self.tell:
                cond = cond + self.tell(self.random_views.told(drawn.amounts).to(self.device))
            output = self.denoiser(x_t, t, cond)
        return denoising_loss(self.model, self.schedule, output, x0, x_t, t, noise)

    def _seen(
        self, index: Tensor, flip: Tensor, projection: Tensor, amounts: Tensor
    ) -> tuple[np.ndarray, list[tuple[int, Tensor]]]:
        """The images as they are trained on, and for each projection ``h`` of those that belong to it."""
        plain = self.images[index.numpy()]
        images = np.where(flip.numpy()[:, None, None, None], plain[:, :, ::-1], plain)
        groups = []
        for r in projection.unique_consecutive().tolist():
            own = (projection == r).nonzero()[:, 0]
            h = self.representations.take(r, index[own], flip[own]).to(self.device)
            changed = amounts[own].any(dim=1)
            if self.random_views and changed.any():
                which = own[changed]
                views = self.random_views.views(index[which], flip[which], amounts[which])
                images[which.numpy()] = [center_crop(view, self.recipe.denoiser.size) for view in views]
                h[changed.to(h.device)] = self.random_views.representations(views, r)
            groups.append((r, h))
        return images, groups

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        current = [*self.model.denoiser.parameters(), *folded_parameters(self.model.conditioning)]
        torch._foreach_lerp_(list(self.average.parameters()), current, 1 - decay)

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """A grid of samples of the averaged weights, every ``sample_every`` steps and at the end.

        With validation images, also the loss of these weights on them, and on the training images as they are.
        """
        if step % self.recipe.sample_every and step != self.steps:
            return {}
        self.samples.write(self.average, self.schedule, folder / "samples" / f"step-{step:07d}.png")
        if self.validation is None:
            return {}
        own = EvalSet(self.images, self.representations)
        how = self.average, self.schedule, self.plan.precision, self.device
        return {"validation_loss": self.validation.loss(*how), "training_loss": own.loss(*how)}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averaged weights and the optimizer's state."""
        return grouped(
            model=self.model.state_dict(),
            average=self.average.state_dict(),
            tell=self.tell.state_dict() if self.tell else {},
            optimizer=optimizer_tensors(self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take all of it up again."""
        self.model.load_state_dict(checkpoint.group("model"))
        self.average.load_state_dict(checkpoint.group("average"))
        if self.tell:
            self.tell.load_state_dict(checkpoint.group("tell"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))

"""Train one denoiser, and a conditioner with a row for each (method, level)."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.diffusion.conditioning import Model, Row, drop
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ConditionerSpec
from rcdm_cli.training.augmentation import AMOUNTS, TOLD, RandomViews
from rcdm_cli.training.batches import generator, photos_at, stratified_timesteps
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.distributed import Share
from rcdm_cli.training.optim import autocast, learning_rate, set_rate
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.representations import Representations
from rcdm_cli.training.sample_grid import SampleGrid
from rcdm_cli.training.validation import HeldPhotos, denoising_loss
from rcdm_cli.training.warm_start import take_over
from rcdm_cli.training.whitening import folded_parameters, standardise_anew, whiten


class _Draws(NamedTuple):
    """What chance decides of one step, a batch (B, …) of each."""

    photo: Tensor
    flip: Tensor
    row: Tensor
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
    photos what one would, but for dropout. ``start`` and ``known`` are for ``take_over``.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        photos: np.ndarray,
        representations: Representations,
        device: torch.device,
        fingerprint: str,
        start: Model | None = None,
        known: Collection[str] = (),
        random_views: RandomViews | None = None,
        validation: HeldPhotos | None = None,
        share: Share | None = None,
    ) -> None:
        self.recipe, self.plan, self.device = recipe, recipe.optimization, device
        self.photos, self.representations, self.random_views = photos, representations, random_views
        self.validation, self.share = validation, share or Share()
        self.fingerprint, self.samples = fingerprint, SampleGrid(photos, representations, device)
        self.steps, self.photos_per_step = recipe.steps, self.plan.batch
        self.description = recipe.description
        self.schedule = Schedule(recipe.schedule)
        torch.manual_seed(self.plan.seed)
        spec = ConditionerSpec(rows=representations.rows, width=recipe.denoiser.cond_width)
        self.model, self.average = Model(recipe.denoiser, spec), Model(recipe.denoiser, spec)
        statistics = [representations.statistics(number) for number in range(len(spec.rows))]
        for number, (mean, covariance) in enumerate(statistics):
            self.model.conditioner.standardise(number, mean.float(), covariance.diagonal().sqrt().float())
        self.start = "" if start is None else take_over(self.model, start, known)
        for number, (mean, covariance) in enumerate(statistics):
            row = self.model.conditioner.rows[number]
            # Changes only what was taken over.
            standardise_anew(cast(Row, row), mean.float(), covariance.diagonal().sqrt().float())
            self.average.conditioner.rows[number].load_state_dict(row.state_dict())
            whiten(self.model.conditioner, number, covariance)
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

    def identity(self) -> dict[str, object]:
        """The recipe less what may change between two parts of a run, the rows and the photos."""
        free = {"steps", "save_every", "sample_every", "description", "encoders", "compile"}
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude=free),
            "conditioner": "whitened",
            "rows": [row.model_dump(mode="json") for row in self.representations.rows],
            "photos": self.fingerprint,
            **({"start": self.start} if self.start else {}),
        }

    def begin(self, step: int) -> None:
        """Nothing to open: batches are drawn by step number."""

    def train_step(self, step: int) -> dict[str, float]:
        """One optimizer step: each (method, level) gets an equal share of the batch."""
        rate = learning_rate(step, self.steps, self.plan, self.plan.lr)
        set_rate(self.optimizer, rate)
        if self.recipe.denoiser.dropout:
            # It draws from torch's own generator; processes, which have other photos, must not drop the same.
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
        batch, rows, size = self.plan.batch, len(self.representations.rows), self.recipe.denoiser.size
        index = photos_at(step, len(self.photos), batch, self.plan.seed)
        draw, noise, dropping, changing = (generator(self.plan.seed, purpose, step) for purpose in (2, 3, 4, 5))
        return _Draws(
            photo=index,
            flip=torch.rand(batch, generator=draw) < 0.5,
            # Turning the rows by one each step evens out the shares where the batch does not divide by them.
            row=(torch.arange(batch) * rows // batch + step) % rows,
            t=stratified_timesteps(batch, len(self.schedule), draw),
            amounts=self.random_views.draw(batch, changing) if self.random_views else torch.zeros(batch, AMOUNTS),
            noise=torch.randn(batch, 3, size, size, generator=noise),
            dropped=torch.rand(batch, generator=dropping) < self.recipe.drop,
        )

    def _gradients(self) -> list[Tensor]:
        """Those of all parameters; a row that no photo belongs to has zeros, since another process may have one."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [cast(Tensor, parameter.grad) for parameter in self.parameters]

    def _losses(self, drawn: "_Draws") -> Tensor:
        photos, groups = self._seen(drawn.photo, drawn.flip, drawn.row, drawn.amounts)
        x0 = to_tensor(photos).to(self.device, memory_format=torch.channels_last)
        noise = drawn.noise.to(self.device, memory_format=torch.channels_last)
        t = drawn.t.to(self.device)
        x_t = self.schedule.noise_to(x0, t, noise)
        with autocast(self.plan.precision, self.device):
            cond = drop(self.model.conditioner.mixed(groups), drawn.dropped)
            if self.random_views and self.tell:
                cond = cond + self.tell(self.random_views.told(drawn.amounts).to(self.device))
            output = self.denoiser(x_t, t, cond)
        return denoising_loss(self.model, self.schedule, output, x0, x_t, t, noise)

    def _seen(
        self, index: Tensor, flip: Tensor, row: Tensor, amounts: Tensor
    ) -> tuple[np.ndarray, list[tuple[int, Tensor]]]:
        """The photos as they are trained on, and for each row ``h`` of those that belong to it."""
        plain = self.photos[index.numpy()]
        photos = np.where(flip.numpy()[:, None, None, None], plain[:, :, ::-1], plain)
        groups = []
        for r in row.unique_consecutive().tolist():
            own = (row == r).nonzero()[:, 0]
            h = self.representations.take(r, index[own], flip[own]).to(self.device)
            changed = amounts[own].any(dim=1)
            if self.random_views and changed.any():
                which = own[changed]
                views = self.random_views.views(index[which], flip[which], amounts[which])
                photos[which.numpy()] = [center_crop(view, self.recipe.denoiser.size) for view in views]
                h[changed.to(h.device)] = self.random_views.representations(views, r)
            groups.append((r, h))
        return photos, groups

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        current = [*self.model.denoiser.parameters(), *folded_parameters(self.model.conditioner)]
        torch._foreach_lerp_(list(self.average.parameters()), current, 1 - decay)

    def milestone(self, step: int, folder: Path) -> dict[str, float]:
        """A grid of samples of the averaged weights, every ``sample_every`` steps and at the end.

        With validation photos, also the loss of these weights on them, and on the training photos as they are.
        """
        if step % self.recipe.sample_every and step != self.steps:
            return {}
        self.samples.write(self.average, self.schedule, folder / "samples" / f"step-{step:07d}.png")
        if self.validation is None:
            return {}
        own = HeldPhotos(self.photos, self.representations)
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

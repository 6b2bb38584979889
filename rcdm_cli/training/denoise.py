"""Train one denoiser, and a conditioner with a row for each (method, level), on cached representations."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.diffusion.conditioner import drop
from rcdm_cli.diffusion.losses import hybrid_loss, simple_loss
from rcdm_cli.diffusion.model import Model
from rcdm_cli.diffusion.prediction import target
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ConditionerSpec
from rcdm_cli.images.tensor import to_tensor
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.order import generator, photos_at
from rcdm_cli.training.precision import autocast
from rcdm_cli.training.rate import learning_rate, set_rate
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.representations import Representations
from rcdm_cli.training.samples import SampleGrid
from rcdm_cli.training.start import take_over


class DenoiserTrainer:
    """A training recipe, as the loop drives it.

    Every draw of step n comes from a generator that is seeded with (seed, purpose, n), so a resumed run
    draws what the run that was not interrupted would have drawn.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        photos: np.ndarray,
        representations: Representations,
        device: torch.device,
        fingerprint: str,
        start: Model | None = None,
    ) -> None:
        self.recipe, self.plan, self.device = recipe, recipe.optimization, device
        self.photos, self.representations = photos, representations
        self.fingerprint, self.samples = fingerprint, SampleGrid(photos, representations, device)
        self.steps, self.photos_per_step = recipe.steps, self.plan.batch
        self.description = recipe.description
        self.schedule = Schedule(recipe.schedule)
        torch.manual_seed(self.plan.seed)
        spec = ConditionerSpec(rows=representations.rows, width=recipe.denoiser.cond_width)
        self.model, self.average = Model(recipe.denoiser, spec), Model(recipe.denoiser, spec)
        for row in range(len(spec.rows)):
            self.model.conditioner.standardise(row, *representations.statistics(row))
        self.start = "" if start is None else take_over(self.model, start)
        self.average.load_state_dict(self.model.state_dict())
        self.model.to(device).to(memory_format=torch.channels_last)
        self.average.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.plan.lr, betas=self.plan.betas, weight_decay=self.plan.weight_decay
        )
        self.denoiser = torch.compile(self.model.denoiser) if recipe.compile else self.model.denoiser

    def identity(self) -> dict[str, object]:
        """The recipe less what may change between two parts of a run, the rows and the photos."""
        free = {"steps", "save_every", "sample_every", "description", "encoders", "compile"}
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude=free),
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
        index, flip, row, t = self._draw(step)
        noise, dropping = generator(self.plan.seed, 3, step), generator(self.plan.seed, 4, step)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in torch.arange(len(index)).chunk(self.plan.accumulate):
            losses = self._losses(index[part], flip[part], row[part], t[part], noise, dropping)
            loss = losses.sum() / len(index)
            loss.backward()
            total += loss.item()
        if self.plan.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self._update_average(step)
        return {"loss": total, "lr": rate}

    def _draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, rows = self.plan.batch, len(self.representations.rows)
        index = photos_at(step, len(self.photos), batch, self.plan.seed)
        draw = generator(self.plan.seed, 2, step)
        flip = torch.rand(batch, generator=draw) < 0.5
        # Turning the rows by one each step evens out the shares where the batch does not divide by them.
        row = (torch.arange(batch) * rows // batch + step) % rows
        # Stratified timesteps: each is uniform, and a batch covers all noise levels evenly, so that the loss
        # is less noisy (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
        places = (torch.arange(batch) + torch.rand(batch, generator=draw)) / batch
        t = (places * len(self.schedule)).long()[torch.randperm(batch, generator=draw)]
        return index, flip, row, t

    def _losses(
        self,
        index: Tensor,
        flip: Tensor,
        row: Tensor,
        t: Tensor,
        noise_from: torch.Generator,
        drop_from: torch.Generator,
    ) -> Tensor:
        photos = self.photos[index.numpy()]
        turned = np.where(flip.numpy()[:, None, None, None], photos[:, :, ::-1], photos)
        x0 = to_tensor(turned).to(self.device, memory_format=torch.channels_last)
        noise = torch.randn(x0.shape, generator=noise_from).to(self.device, memory_format=torch.channels_last)
        t = t.to(self.device)
        x_t = self.schedule.noise_to(x0, t, noise)
        groups = [
            (int(r), self.representations.take(int(r), index[row == r], flip[row == r]).to(self.device))
            for r in row.unique_consecutive()
        ]
        with autocast(self.plan.precision, self.device):
            cond = drop(self.model.conditioner.mixed(groups), self.recipe.drop, drop_from)
            output = self.denoiser(x_t, t, cond)
        if self.recipe.denoiser.learned_variance:
            return hybrid_loss(output, noise, x0, x_t, t, self.schedule)
        return simple_loss(output, target(self.recipe.denoiser.prediction, self.schedule, x0, t, noise))

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def milestone(self, step: int, folder: Path) -> dict[str, float]:
        """A grid of samples of the averaged weights, every ``sample_every`` steps and at the end."""
        if step % self.recipe.sample_every == 0 or step == self.steps:
            self.samples.write(self.average, self.schedule, folder / "samples" / f"step-{step:07d}.png")
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averaged weights and the optimizer's state."""
        return grouped(
            model=self.model.state_dict(),
            average=self.average.state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take all of it up again."""
        self.model.load_state_dict(checkpoint.group("model"))
        self.average.load_state_dict(checkpoint.group("average"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))

"""Distil a student, which samples in a few steps without guidance, from a trained model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from rcdm_cli.core.files import write_tensors
from rcdm_cli.core.precision import autocast
from rcdm_cli.data.loader import load_batches
from rcdm_cli.data.tensor import to_float
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.losses import simple_loss
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.space import encode_x0
from rcdm_cli.diffusion.spec import DenoiserSpec, ScheduleSpec
from rcdm_cli.diffusion.unet import UNet
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.training import distributed
from rcdm_cli.training.batches import Draws, draw_step, generator
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.evaluation import EvalSet
from rcdm_cli.training.optimizer import adamw, can_compile, set_learning_rate
from rcdm_cli.training.recipe import DistillRecipe, Objective
from rcdm_cli.training.stages import PredictX0, StageTimesteps, stages_to
from rcdm_cli.training.step_data import Part, StepData


class Teacher(NamedTuple):
    """Trained model that a student is distilled from.

    Attributes:
        model: denoiser and conditioning.
        sha256: hash of the weights.
        schedule: noise schedule.
        guidance: guidance scale that the student learns.
        encoders: encoders of the representations.
        codec: decoder and statistics of a latent space.
    """

    model: Model
    sha256: str
    schedule: ScheduleSpec
    guidance: float
    encoders: Sequence[Encoder]
    codec: LatentCodec | None = None


def student_spec(teacher: DenoiserSpec) -> DenoiserSpec:
    """Return the architecture of a student: the denoiser of its teacher, which predicts the velocity.

    At the last timestep, x_t contains almost no image. The noise would not determine x0 there (Salimans and Ho 2022,
    arXiv:2202.00512, section 4).
    """
    return teacher.model_copy(update={"prediction": "v", "learned_variance": False, "dropout": 0.0})


def predict_x0(unet: UNet, schedule: Schedule, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """Return the x0 (B, C, H, W) that a denoiser predicts for ``x`` (B, C, H, W), ``t`` (B,) and ``cond`` (B, W)."""
    output = unet(x, t, cond)[:, : x.shape[1]].to(x.dtype)
    if unet.spec.prediction == "v":
        return schedule.x0_from_velocity(x, t, output)
    return schedule.predict_x0(x, t, output)


def guided_x0(model: Model, guidance: Tensor | None, schedule: Schedule, cond: Tensor, clip: bool) -> PredictX0:
    """Return the prediction of x0 with classifier-free guidance at scales ``guidance`` (B,), as samplers compute it.

    x0 is an affine function of eps, so that guidance of x0 equals guidance of eps. None is no guidance.
    """
    null = model.conditioning.unconditional(len(cond)).to(cond.dtype)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        x0 = predict_x0(model.denoiser, schedule, x, t, cond)
        if guidance is not None:
            unconditional = predict_x0(model.denoiser, schedule, x, t, null)
            x0 = unconditional + guidance[:, None, None, None] * (x0 - unconditional)
        return x0.clamp(-1, 1) if clip else x0

    return predict


class _StudentNetwork(nn.Module):
    """Denoiser and guidance embedding as one module, for DistributedDataParallel."""

    def __init__(self, denoiser: nn.Module, guidance: nn.Module | None) -> None:
        super().__init__()
        self.denoiser, self.guidance = denoiser, guidance

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor, scale: Tensor) -> Tensor:
        """Predict the velocity from ``x_t`` (B, C, H, W), ``t`` (B,), ``cond`` (B, W) and guidance scales (B,)."""
        if self.guidance is not None:
            cond = cond + self.guidance(scale)
        return cast(Tensor, self.denoiser(x_t, t, cond))


class StudentTrainer:
    """Trainer of a student, for ``loop.fit``: progressive distillation (Salimans and Ho 2022, arXiv:2202.00512).

    The teacher of the first stage is the trained model with guidance, so that the student needs no guidance (Meng et
    al. 2023, arXiv:2210.03142). The teacher of a later stage is the student of the previous stage with EMA weights.
    Teacher and student solve the same differential equation from the same noise. A seed therefore keeps its sample. The
    conditioning projections of the trained model are not changed.

    Draws depend on seed and step only, as in ``DenoiserTrainer``.

    Args:
        recipe: settings.
        steps: sampling steps of the last student.
        teacher: trained model.
        data: training images and their representations, with the projections of the teacher.
        fingerprint: hash of the images, part of the resume key.
        workers: number of processes that read images and representations; 0 reads in this process.
    """

    def __init__(
        self, recipe: DistillRecipe, steps: int, teacher: Teacher, data: EvalSet, fingerprint: str, workers: int = 0
    ) -> None:
        self.recipe, self.plan, self.teacher, self.images = recipe, recipe.optimization, teacher, data
        self.device, self.fingerprint, self.workers = data.device, fingerprint, workers
        self.schedule = Schedule(teacher.schedule)
        self.stages = stages_to(steps, recipe.start, recipe.substeps)
        self.timesteps = [StageTimesteps(self.schedule, stage, self.device) for stage in self.stages]
        self.steps, self.images_per_step = recipe.steps * len(self.stages), self.plan.batch
        self.description = recipe.description
        self.clip = data.latents is None
        rows = data.latents.rows if data.latents else None
        ranks = distributed.rank(), distributed.world_size()
        self.data = StepData(self.plan, data.images, data.representations, None, (), *ranks, rows)
        teacher.model.to(self.device).eval().requires_grad_(False)
        spec = student_spec(teacher.model.denoiser.spec)
        self.student, self.ema, self.previous = (self._model(spec) for _ in range(3))
        self.ema.requires_grad_(False)
        self.previous.requires_grad_(False)
        self.parameters = _trained(self.student)
        self.optimizer = adamw(self.parameters, self.plan)
        compiled = can_compile(self.device) if recipe.compile is None else recipe.compile
        denoiser = cast(
            nn.Module, torch.compile(self.student.denoiser, dynamic=False) if compiled else self.student.denoiser
        )
        self.network = distributed.data_parallel(
            _StudentNetwork(denoiser, self.student.conditioning.guidance),
            self.plan.gradient_compression,
            static_graph=self.plan.accumulate == 1 and not compiled,
        )

    def _model(self, spec: DenoiserSpec) -> Model:
        """Return a student with the weights of the trained model. Channels of a learned variance are left out."""
        conditioning = self.teacher.model.conditioning.spec.model_copy(update={"guidance": self.recipe.guidance})
        model = Model(spec, conditioning)
        given = self.teacher.model.state_dict()
        # The guidance embedding is new. Its initial output is 0.
        own = model.state_dict()
        model.load_state_dict({name: given[name][: len(own[name])] if name in given else own[name] for name in own})
        model.conditioning.requires_grad_(False)
        if model.conditioning.guidance is not None:
            model.conditioning.guidance.requires_grad_(True)
        return model.to(self.device).to(memory_format=torch.channels_last)

    def resume_key(self) -> dict[str, object]:
        """Return teacher, projections, images and the recipe, without settings that may change between parts of a run.

        The steps of the last student may change: a run can be continued with further halvings.
        """
        excluded: Any = dict.fromkeys(("save_every", "description", "autoencoder", "compile"), True)
        excluded |= {"optimization": {"gradient_compression"}}
        projections = self.teacher.model.conditioning.spec.projections
        latents = self.images.latents
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude=excluded),
            "teacher": self.teacher.sha256,
            "guidance": self.teacher.guidance,
            "projections": [projection.model_dump(mode="json") for projection in projections],
            "images": self.fingerprint,
            **({"latents": latents.codec.statistics.model_dump(mode="json")} if latents else {}),
        }

    def setup(self, step: int) -> None:
        """Read batches from step ``step``."""
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        self.batches = load_batches(self.data, range(step, self.steps), self.device, self.workers)

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """Do one optimizer step of the stage that ``step`` belongs to."""
        number, done = divmod(step, self.recipe.steps)
        if done == 0 and number:
            self._start_stage()
        with record_function("train: data"):
            parts = next(self.batches)
        lr = self.plan.learning_rate(done, self.recipe.steps)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(step, number, parts)
        with record_function("train: optimizer"):
            if self.plan.clip:
                nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
            self.optimizer.step()
        with record_function("train: ema"), torch.no_grad():
            decay = min(self.recipe.ema, (1 + done) / (10 + done))
            torch._foreach_lerp_(list[Tensor](_trained(self.ema)), list[Tensor](self.parameters), 1 - decay)
        return {"loss": loss, "lr": lr, "student_steps": float(self.stages[number].steps)}

    def _start_stage(self) -> None:
        """Make the student with EMA weights the teacher, and the initial student, of the next stage."""
        for model in (self.previous, self.student):
            model.load_state_dict(self.ema.state_dict())
        self.optimizer = adamw(self.parameters, self.plan)

    def _backward(self, step: int, number: int, parts: Sequence[Part]) -> Tensor:
        """Compute the gradients of the mean loss over the batch of all processes, and return that loss."""
        shape = (self.plan.batch, *self.student.denoiser.spec.input_shape)
        count = self.stages[number].steps
        draws = draw_step(self.plan.seed, step, shape, count, 0.0, Objective(), self.device)
        total = torch.zeros((), device=self.device)
        scales = self._scales(step)
        *first, last = parts
        with distributed.explain_lost_process():
            for part in first:
                with distributed.no_sync(self.network):
                    total += self._backward_part(number, part, draws.select(part.position), scales[part.position])
            total += self._backward_part(number, last, draws.select(last.position), scales[last.position])
        return distributed.all_reduce_sum(total)

    def _scales(self, step: int) -> Tensor:
        """Return the guidance scales (B,) of the whole batch."""
        scales = self.recipe.guidance
        if scales is None:
            return torch.full((self.plan.batch,), self.teacher.guidance, device=self.device)
        draw = generator("guidance", self.plan.seed, step, device=self.device)
        return scales.low + (scales.high - scales.low) * torch.rand(self.plan.batch, generator=draw, device=self.device)

    def _backward_part(self, number: int, part: Part, draws: Draws, scales: Tensor) -> Tensor:
        with record_function("train: forward"):
            loss = self._losses(number, part, draws, scales).sum() / self.plan.batch
        with record_function("train: backward"):
            # DistributedDataParallel divides the sum of the gradients by the number of processes.
            (loss * distributed.world_size()).backward()
        return loss.detach()

    def _losses(self, number: int, part: Part, draws: Draws, scales: Tensor) -> Tensor:
        """Return the squared error (B,) of the velocity, which weights the error of x0 by SNR + 1."""
        timesteps, index = self.timesteps[number], draws.t
        cond = self.student.conditioning.mixed([(group.projection, group.h.float()) for group in part.groups])
        x_t = timesteps.add_noise(self._x0(part), index, draws.noise)
        with autocast(self.plan.precision, self.device):
            target = timesteps.target(self._teacher(number, cond, scales), x_t, index)
            output = self.network(x_t, timesteps.timesteps(index), cond, scales)
        return simple_loss(output, target)

    def _teacher(self, number: int, cond: Tensor, scales: Tensor) -> PredictX0:
        """Return the teacher of stage ``number``: the trained model with guidance, or the previous student."""
        if number == 0:
            guided = self.recipe.guidance is not None or self.teacher.guidance != 1
            return guided_x0(self.teacher.model, scales if guided else None, self.schedule, cond, self.clip)
        embedding = self.previous.conditioning.guidance
        own = cond if embedding is None else cond + embedding(scales)
        return guided_x0(self.previous, None, self.schedule, own, self.clip)

    def _x0(self, part: Part) -> Tensor:
        """Return the flipped images or latents (B, C, H, W) of ``part`` on the device."""
        if self.images.latents is not None:
            x0 = self.images.latents.codec.normalise(part.latents.float())
            return x0.contiguous(memory_format=torch.channels_last)
        images = to_float(part.images)
        flipped = torch.where(part.flip[:, None, None, None], images.flip(3), images)
        return encode_x0(self.student.denoiser.spec, flipped, None)

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """Write the EMA weights of the student and a grid of its samples at the end of a stage."""
        number, done = divmod(step, self.recipe.steps)
        if done:
            return {}
        count = self.stages[number - 1].steps
        write_tensors(student_path(folder, count), self.ema.state_dict(), {"kind": "student", "steps": str(count)})
        grid = folder / "samples" / f"{count}-steps.png"
        self.images.write_sample_grid(self.ema, self.schedule, grid, "ddim_angle", count, self.teacher.guidance)
        return {"finished_student": count}

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of the student and of its teacher, EMA weights and the optimizer's state."""
        return grouped(
            model=self.student.state_dict(),
            ema=self.ema.state_dict(),
            previous=self.previous.state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the weights of the student and of its teacher, EMA weights and the optimizer's state."""
        self.student.load_state_dict(checkpoint.group("model"))
        self.ema.load_state_dict(checkpoint.group("ema"))
        self.previous.load_state_dict(checkpoint.group("previous"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))


def _trained(model: Model) -> list[nn.Parameter]:
    """Return the parameters that are trained: the denoiser and the guidance embedding."""
    embedding = model.conditioning.guidance
    return [*model.denoiser.parameters(), *(embedding.parameters() if embedding is not None else ())]


def student_path(folder: Path, steps: int) -> Path:
    """Return the file of a finished student with EMA weights in the folder of a run."""
    return folder / "students" / f"{steps}-steps.safetensors"

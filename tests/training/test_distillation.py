"""Trainer of students: targets, stages and gradients."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, GuidanceRange, Representation, ScheduleSpec
from rcdm_cli.training.distillation import StudentTrainer, Teacher
from rcdm_cli.training.evaluation import EvalSet
from rcdm_cli.training.recipe import DistillRecipe, Optimization
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from tests.training.tiny import random_images, tiny_encoder

CPU = torch.device("cpu")
PROJECTIONS = tuple(
    Representation(method="simclr", level=level, width=width) for level, width in (("backbone", 16), ("projector", 12))
)


def make_trainer(guidance=1.0, prediction="v", learned_variance=False, guidance_range=None, batch=6):
    spec = DenoiserSpec(
        size=32,
        channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention=(),
        prediction=prediction,
        learned_variance=learned_variance,
    )
    torch.manual_seed(0)
    model = Model(spec, ConditioningSpec(projections=PROJECTIONS, width=spec.cond_width))
    with torch.no_grad():
        for parameter in model.parameters():
            # The zero initialisation would hide x and cond.
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    plan = Optimization(batch=batch, lr=1e-3, precision="fp32")
    recipe = DistillRecipe(
        kind="distill", start=2, substeps=1, steps=2, guidance=guidance_range, optimization=plan, compile=False
    )
    images = random_images(9, 32)
    computed = ComputedRepresentations([EncoderInputs(tiny_encoder(), images, "a")], PROJECTIONS, CPU)
    teacher = Teacher(model, "0", ScheduleSpec(), guidance, [tiny_encoder()])
    trainer = StudentTrainer(recipe, 1, teacher, EvalSet(images, computed, CPU), "images")
    trainer.clip = False
    return trainer


def test_loss_of_a_student_with_the_weights_and_the_steps_of_its_teacher_is_zero():
    trainer = make_trainer()
    trainer.setup(0)
    assert float(trainer.train_step(0)["loss"]) < 1e-8


@torch.no_grad()
def test_loss_of_guided_samples_is_the_guidance_term():
    """The student starts with the conditional velocity; guidance adds (scale - 1) (conditional - unconditional)."""
    trainer = make_trainer(guidance=3.0)
    seen = []
    network = trainer.network
    trainer.network = lambda x, t, cond, scale: seen.append((x, t, cond)) or network(x, t, cond, scale)
    trainer.setup(0)
    with torch.enable_grad():
        loss = float(trainer.train_step(0)["loss"])
    (x, t, cond), denoiser = seen[0], trainer.teacher.model.denoiser
    difference = 2 * (denoiser(x, t, cond) - denoiser(x, t, torch.zeros_like(cond)))
    assert loss == pytest.approx(float(difference.square().mean()), rel=1e-3)
    assert set(t.tolist()) <= {999, 257}


def test_guidance_as_an_input_is_drawn_per_image_and_reaches_student_and_teacher():
    trainer = make_trainer(guidance=2.0, guidance_range=GuidanceRange(low=1, high=3))
    seen, network = [], trainer.network
    trainer.network = lambda *inputs: seen.append(inputs) or network(*inputs)
    trainer.setup(0)
    loss = float(trainer.train_step(0)["loss"])
    (x, t, cond, scale), denoiser = seen[0], trainer.teacher.model.denoiser
    assert 1 <= float(scale.min()) < float(scale.max()) <= 3
    with torch.no_grad():
        # The initial embedding is 0, so that the student begins with the conditional velocity.
        difference = denoiser(x, t, cond) - denoiser(x, t, torch.zeros_like(cond))
        expected = ((scale - 1)[:, None, None, None] * difference).square().mean()
    assert loss == pytest.approx(float(expected), rel=1e-3)
    for step in (1, 2):
        trainer.train_step(step)
    embedding = trainer.previous.conditioning.guidance
    assert not torch.equal(embedding(torch.tensor([1.0])), embedding(torch.tensor([3.0])))


def test_teacher_of_the_second_stage_is_the_student_with_ema_weights():
    trainer = make_trainer()
    trainer.setup(0)
    for step in range(3):
        before = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
        trainer.train_step(step)
    assert all(torch.equal(value, before[name]) for name, value in trainer.previous.state_dict().items())
    assert trainer.stages[1] == (1, 2)


def test_student_of_a_teacher_with_learned_variance_predicts_the_velocity_only():
    trainer = make_trainer(prediction="eps", learned_variance=True)
    teacher, student = trainer.teacher.model.denoiser, trainer.student.denoiser
    assert (student.spec.prediction, student.spec.out_channels, teacher.spec.out_channels) == ("v", 3, 6)
    trainer.setup(0)
    assert torch.isfinite(trainer.train_step(0)["loss"])
    assert teacher.spec == trainer.teacher.model.denoiser.spec
    assert not any(p.requires_grad for p in [*teacher.parameters(), *trainer.student.conditioning.parameters()])
    assert Schedule(trainer.teacher.schedule).spec == trainer.schedule.spec


def gradients():
    """Return loss and gradients of a guided step, for a batch that two processes share unevenly."""
    trainer = make_trainer(guidance=2.0, guidance_range=GuidanceRange(low=1, high=3), batch=5)
    trainer.setup(0)
    loss = float(trainer.train_step(0)["loss"])
    return loss, [parameter.grad.clone() for parameter in trainer.parameters]


def step_in_one_of_two_processes(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store, timeout=timedelta(seconds=120))
    try:
        torch.save(gradients(), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_of_two_processes_equal_those_of_one(tmp_path):
    multiprocessing.spawn(step_in_one_of_two_processes, args=(tmp_path,), nprocs=2)
    loss, expected = gradients()
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in expected)
    assert rounding > 0
    for rank in range(2):
        own_loss, own = torch.load(tmp_path / f"{rank}.pt")
        assert own_loss == pytest.approx(loss, rel=1e-5)
        for ours, gradient in zip(own, expected, strict=True):
            torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=rounding)

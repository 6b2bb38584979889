"""Stages of progressive distillation: timesteps, targets, and students of a denoiser in closed form."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.samplers import ddim
from rcdm_cli.diffusion.sampling import eps_denoiser
from rcdm_cli.diffusion.schedule import Schedule, spacing
from rcdm_cli.diffusion.spec import ScheduleSpec
from rcdm_cli.training.stages import Stage, StageTimesteps, stages_to

SCHEDULE = Schedule(ScheduleSpec())


def test_stages_halve_the_steps():
    assert stages_to(4, 16, 3) == (Stage(16, 3), Stage(8, 2), Stage(4, 2))
    assert stages_to(6, 6, 1) == (Stage(6, 1),)
    with pytest.raises(InputError, match=r"`steps` must be one of 12, 6, 3, .* given 4"):
        stages_to(4, 12, 2)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_timesteps_are_those_of_the_sampler_and_of_every_second_step_of_the_teacher(kind, steps):
    schedule = Schedule(ScheduleSpec(kind=kind))
    student, teacher = spacing("angle", schedule, steps), spacing("angle", schedule, 2 * steps)
    assert student == teacher[::2]
    timesteps = StageTimesteps(schedule, Stage(steps, 2))
    assert timesteps.timesteps(torch.arange(steps)).tolist() == list(student[::-1])


def test_schedule_with_too_few_timesteps_raises():
    with pytest.raises(InputError, match="30 timesteps is too short for 32 steps"):
        StageTimesteps(Schedule(ScheduleSpec(timesteps=30)), Stage(16, 2))


@pytest.mark.parametrize("substeps", [1, 2, 3])
def test_one_step_of_the_student_equals_the_steps_of_the_teacher(substeps):
    """A DDIM step with the target velocity ends where the DDIM steps of the teacher end."""
    stage = Stage(4, substeps)
    timesteps = StageTimesteps(SCHEDULE, stage)
    fine = [*spacing("angle", SCHEDULE, 4 * substeps), None]
    draw = torch.Generator().manual_seed(0)
    x_t = torch.randn(4, 3, 2, 2, generator=draw)
    teacher = lambda x, t: torch.tanh(x + t.view(-1, 1, 1, 1) / 1000)  # noqa: E731
    velocity = timesteps.target(teacher, x_t, torch.arange(4))

    def step(x, x0, start, end):
        a, s = SCHEDULE.signal[start], SCHEDULE.noise[start]
        end_a, end_s = (1.0, 0.0) if end is None else (SCHEDULE.signal[end], SCHEDULE.noise[end])
        return end_a * x0 + end_s * (x - a * x0) / s

    for index in range(4):
        first = substeps * (3 - index)
        x = x_t[index].double()
        for start, end in zip(fine[first : first + substeps], fine[first + 1 :], strict=False):
            x = step(x, teacher(x[None], torch.tensor([start]))[0], start, end)
        start, end = fine[first], fine[first + substeps]
        own = x_t[index].double()
        x0 = SCHEDULE.signal[start] * own - SCHEDULE.noise[start] * velocity[index]
        torch.testing.assert_close(step(own, x0, start, end), x, rtol=1e-3, atol=1e-3)


class Mixture:
    """Gaussian mixture in two dimensions, whose scaled density has a known score at each noise level."""

    means = torch.tensor([[-0.6, 0.1], [0.5, 0.6], [0.4, -0.6]], dtype=torch.float64)
    std = 0.2

    def x0(self, x, a, s):
        """Return E[x0 | x] for x = a x0 + s eps: the posterior mean of each component, weighted by the component."""
        a, s = (torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1) for value in (a, s))
        variance = a**2 * self.std**2 + s**2
        offset = x[:, None] - a * self.means
        weight = (-offset.square().sum(-1, keepdim=True) / (2 * variance)).softmax(dim=1)
        return (weight * (self.means + a * self.std**2 / variance * offset)).sum(1)

    def exact(self, noise):
        """Solve the probability flow ODE from the last timestep to x0 over the angle, dx / dangle = v.

        With a = cos(angle) and s = sin(angle), dx = -s x0 + a eps.
        """

        def velocity(angle, x):
            a, s = np.cos(angle), np.sin(angle)
            z = torch.from_numpy(x).view(-1, 2)
            x0 = self.x0(z, a, s)
            return (-s * x0 + a * (z - a * x0) / s).numpy().ravel()

        last = float(np.arccos(SCHEDULE.signal[-1]))
        solved = solve_ivp(velocity, (last, 1e-4), noise.double().numpy().ravel(), rtol=1e-6, atol=1e-7)
        return torch.from_numpy(solved.y[:, -1]).view(-1, 2)


class Student(nn.Module):
    """Small network (x (B, 2, 1, 1), t (B,)) → v (B, 2, 1, 1)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2)
        )

    def forward(self, x, t):
        a, s = (torch.as_tensor(values[t.numpy()]).float() for values in (SCHEDULE.signal, SCHEDULE.noise))
        return self.layers(torch.cat([x[:, :, 0, 0], a[:, None], s[:, None]], 1))[..., None, None]


def distil(mixture):
    """Train students with 8, 4, 2 and 1 steps and return one per number of steps."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)

    def teacher(x, t):
        x0 = mixture.x0(x[:, :, 0, 0].double(), SCHEDULE.signal[t.numpy()], SCHEDULE.noise[t.numpy()])
        return x0[..., None, None].float()

    student, students = Student(), {}
    for stage in stages_to(1, 8, 8):
        timesteps = StageTimesteps(SCHEDULE, stage)
        count = 800 if stage.steps == 8 else 400
        optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
        for _ in range(count):
            component = torch.randint(3, (256,), generator=draw)
            x0 = mixture.means[component].float() + mixture.std * torch.randn(256, 2, generator=draw)
            index = torch.randint(stage.steps, (256,), generator=draw)
            x_t = timesteps.add_noise(x0[..., None, None], index, torch.randn(256, 2, 1, 1, generator=draw))
            target = timesteps.target(teacher, x_t, index)
            loss = (student(x_t, timesteps.timesteps(index)) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        students[stage.steps] = previous = Student()
        previous.load_state_dict(student.state_dict())
        previous.requires_grad_(False)
        teacher = lambda x, t, own=previous: SCHEDULE.x0_from_velocity(x, t, own(x, t))  # noqa: E731
    return students


def samples(network, noise, steps):
    denoise = eps_denoiser("v", SCHEDULE, lambda x, t: network(x, torch.full((len(x),), t)))
    return ddim(denoise, noise[..., None, None], SCHEDULE, spacing("angle", SCHEDULE, steps), clip=False)[:, :, 0, 0]


def error(found, exact):
    """Root of the mean squared distance from the exact samples, relative to the spread of the samples."""
    return float((found - exact).square().mean().sqrt() / exact.std())


@pytest.mark.slow
def test_students_of_a_gaussian_mixture_equal_the_exact_samples_from_the_same_noise():
    mixture = Mixture()
    noise = torch.randn(512, 2, generator=torch.Generator().manual_seed(2))
    exact = mixture.exact(noise)

    def teacher(x, t):
        a, s = SCHEDULE.signal[t[0]], SCHEDULE.noise[t[0]]
        x0 = mixture.x0(x[:, :, 0, 0].double(), a, s)[..., None, None]
        return a * (x - a * x0) / s - s * x0

    students = distil(mixture)
    for steps, limit in ((4, 0.12), (2, 0.15), (1, 0.2)):
        own, of_teacher = (error(samples(each, noise, steps), exact) for each in (students[steps], teacher))
        assert own < limit
        assert own < 0.5 * of_teacher
    assert error(samples(students[1], noise, 1), exact.flip(0)) > 1

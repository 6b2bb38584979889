import json
from functools import partial

import numpy as np
import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.samplers import SAMPLERS, ddim, ddpm, dpmpp
from rcdm_cli.diffusion.schedule import Schedule, spacing
from rcdm_cli.diffusion.spec import ScheduleSpec
from tests.diffusion.gaussian import GaussianImages
from tests.diffusion.golden import arrays, published_model, relative, tensors

LINEAR = Schedule(ScheduleSpec())
COSINE = Schedule(ScheduleSpec(kind="cosine"))
KINDS = ["leading", "linspace", "logsnr"]


def no_noise(step):
    raise AssertionError(f"no noise is due at step {step}")


@pytest.mark.parametrize("name", ["sampler_ddpm25", "sampler_ddim10"])
@torch.no_grad()
def test_samples_equal_golden_numbers(name):
    golden, meta = tensors(name), json.loads(str(arrays(name)["meta"]))
    unet, conditioning = published_model("unet_a")
    cond = conditioning(golden["feat"], 0)
    timesteps = golden["timestep_map"].tolist()[::-1]
    sampler = ddim if meta["ddim"] else partial(ddpm, step_noise=lambda step: golden["noise"][step])
    samples = sampler(
        lambda x, t: unet(x, torch.full((len(x),), t), cond),
        golden["x_T"],
        LINEAR,
        timesteps,
        clip=meta["clip_denoised"],
    )
    assert samples.dtype == torch.float32
    assert relative(samples, golden["sample"]) < 1e-4


# diffusers computes coefficients in float32, rcdm in float64: they agree to about 1e-5.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def drive(scheduler, images, timesteps, **options):
    """Sample the closed-form denoiser with a scheduler of diffusers."""
    x = images.start()
    for timestep in timesteps:
        x = scheduler.step(images.denoise(x, timestep), timestep, x, **options).prev_sample
    return x


# diffusers passes a tensor to numpy in a way that numpy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 15, 40])
@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp, 2)])
def test_deterministic_samplers_equal_diffusers(sampler, order, steps, kind, schedule, clip):
    images = GaussianImages(schedule)
    timesteps = spacing(kind, schedule, steps)
    theirs = pytest.importorskip("diffusers").DPMSolverMultistepScheduler(
        trained_betas=schedule.betas,
        solver_order=order,
        algorithm_type="dpmsolver++",
        lower_order_final=True,
        final_sigmas_type="zero",
        thresholding=clip,  # with a maximum of 1, thresholding is clipping
        sample_max_value=1.0,
    )
    theirs.set_timesteps(timesteps=list(timesteps))
    # The last noise-to-signal ratio of the cosine schedule is 20,000. In float32, it would cost four digits.
    theirs.sigmas = torch.from_numpy(np.append((schedule.noise / schedule.signal)[list(timesteps)], 0.0))
    ours = sampler(images.denoise, images.start(), schedule, timesteps, clip=clip)
    torch.testing.assert_close(ours, drive(theirs, images, timesteps), **CLOSE)


def test_ddim_equals_diffusers():
    images, timesteps = GaussianImages(LINEAR), spacing("leading", LINEAR, 20)
    theirs = pytest.importorskip("diffusers").DDIMScheduler(
        trained_betas=LINEAR.betas, timestep_spacing="leading", clip_sample=True
    )
    theirs.set_timesteps(20)
    x = drive(theirs, images, timesteps, use_clipped_model_output=True)
    torch.testing.assert_close(ddim(images.denoise, images.start(), LINEAR, timesteps), x, **CLOSE)


@pytest.mark.parametrize("learned", [False, True], ids=["fixed large", "learned range"])
def test_ddpm_equals_diffusers(learned):
    images, timesteps = GaussianImages(COSINE), spacing("linspace", COSINE, 12)
    theirs = pytest.importorskip("diffusers").DDPMScheduler(
        trained_betas=COSINE.betas, variance_type="learned_range" if learned else "fixed_large", clip_sample=True
    )
    theirs.set_timesteps(timesteps=list(timesteps))

    def denoise(x, t):
        eps = images.denoise(x, t)
        return torch.cat([eps, torch.tanh(eps)], dim=1) if learned else eps

    draw = torch.Generator().manual_seed(0)
    x = images.start()
    for timestep in timesteps:
        x = theirs.step(denoise(x, timestep), timestep, x, generator=draw).prev_sample
    draw.manual_seed(0)
    ours = ddpm(
        denoise,
        images.start(),
        COSINE,
        timesteps,
        step_noise=lambda _: torch.randn(2, *images.shape, generator=draw, dtype=torch.float64),
    )
    torch.testing.assert_close(ours, x, **CLOSE)


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp, 2)])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_error_decreases_with_the_order_of_the_sampler(sampler, order, kind):
    schedule = Schedule(ScheduleSpec(kind=kind, timesteps=20_000))  # small rounding errors of timesteps
    images = GaussianImages(schedule)
    exact = images.exact(images.start(), 19_999, until=0)

    def error(steps):
        visited = []

        def denoise(x, t):
            visited.append((t, x))
            return images.denoise(x, t)

        sampler(denoise, images.start(), schedule, spacing("logsnr", schedule, steps), clip=False)
        timestep, x = visited[-1]
        assert timestep == 0
        return float((x - exact).norm())

    errors = [error(steps) for steps in (40, 80, 160)]
    ratios = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(ratios, order, atol=0.25)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [ddim, dpmpp])
def test_samples_converge_to_the_exact_solution(sampler, kind):
    images = GaussianImages(LINEAR)
    timesteps = spacing(kind, LINEAR, 500)
    samples = sampler(images.denoise, images.start(), LINEAR, timesteps, clip=False)
    exact = images.exact(images.start(), timesteps[0], until=None)
    # The last step, from the noise level 0.01 to 0, contributes an error of 4e-4.
    assert relative(samples, exact) < (1e-2 if sampler is ddim else 1e-3)


def test_ddpm_samples_the_distribution_of_the_images():
    schedule = Schedule(ScheduleSpec(kind="cosine", timesteps=200))
    images = GaussianImages(schedule, shape=(3, 1, 1))
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 3, 1, 1, generator=generator, dtype=torch.float64)
    samples = ddpm(
        images.denoise,
        start,
        schedule,
        spacing("linspace", schedule, 200),
        clip=False,
        step_noise=lambda _: torch.randn(start.shape, generator=generator, dtype=torch.float64),
    )
    # Four standard errors of the mean of 4000 draws. With beta as variance, the deviation is a few per cent too large.
    assert torch.all((samples.mean(0) - images.mean).abs() < 4 * images.std / 4000**0.5)
    torch.testing.assert_close(samples.std(0), images.std, rtol=0.08, atol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_denoiser_is_called_once_per_timestep_and_samples_have_the_dtype_of_the_noise(name):
    sampler = SAMPLERS[name]
    images, timesteps = GaussianImages(LINEAR), spacing(sampler.spacing, LINEAR, 5)
    calls = []
    options = {"step_noise": lambda _: torch.zeros(2, *images.shape)} if sampler.needs_step_noise else {}

    def denoise(x, t):
        calls.append((t, x))
        return images.denoise(x, t).bfloat16()

    start = images.start().float()
    samples = sampler.run(denoise, start, LINEAR, timesteps, **options)
    assert [t for t, _ in calls] == list(timesteps)
    assert torch.equal(calls[0][1], start)
    assert all(x.dtype == torch.float32 for _, x in calls)
    assert samples.dtype == torch.float32
    assert samples.abs().max() <= 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_returns_no_gradient_and_does_not_change_the_noise(name):
    sampler = SAMPLERS[name]
    weight, start = torch.ones(1, requires_grad=True), torch.randn(1, 3, 2, 2)
    before = start.clone()
    options = {"step_noise": torch.zeros_like(start).mul} if sampler.needs_step_noise else {}
    samples = sampler.run(lambda x, t: weight * x, start, LINEAR, (900, 500, 0), **options)
    assert not samples.requires_grad
    assert torch.equal(start, before)


def test_step_noise_is_drawn_after_all_steps_except_the_last():
    drawn = []

    def draw(step):
        drawn.append(step)
        return torch.zeros(1, 3, 2, 2)

    ddpm(lambda x, t: x, torch.zeros(1, 3, 2, 2), LINEAR, (900, 500, 100), step_noise=draw)
    assert drawn == [0, 1]


@pytest.mark.parametrize("timesteps", [(), (0, 500), (500, 500), (1000, 0)])
@pytest.mark.parametrize("sampler", [partial(ddpm, step_noise=no_noise), ddim, dpmpp])
def test_timesteps_that_do_not_descend_raise(sampler, timesteps):
    with pytest.raises(InputError, match=r"within 0\.\.999"):
        sampler(lambda x, t: x, torch.zeros(1, 3, 2, 2), LINEAR, timesteps)

import numpy as np
import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.schedule import Schedule, spacing
from rcdm_cli.diffusion.spec import ScheduleSpec
from tests.diffusion.golden import arrays

KINDS = ["leading", "linspace", "logsnr", "angle"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule_kind", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [21, 1000])
def test_spacing_returns_distinct_descending_timesteps(kind, schedule_kind, timesteps):
    schedule = Schedule(ScheduleSpec(kind=schedule_kind, timesteps=timesteps))
    for steps in {1, 2, 7, timesteps // 2, timesteps - 1, timesteps}:
        chosen = spacing(kind, schedule, steps)
        assert len(chosen) == steps
        assert list(chosen) == sorted(set(chosen), reverse=True)
        assert all(type(timestep) is int and 0 <= timestep < timesteps for timestep in chosen)


@pytest.mark.parametrize("kind", ["leading", "linspace"])
@pytest.mark.parametrize("steps", [2, 10, 30, 50, 333])
def test_spacings_equal_diffusers(kind, steps):
    theirs = pytest.importorskip("diffusers").DDIMScheduler(timestep_spacing=kind)
    theirs.set_timesteps(steps)
    assert spacing(kind, Schedule(ScheduleSpec()), steps) == tuple(theirs.timesteps.tolist())


@pytest.mark.parametrize(
    ("kind", "respacing"),
    [("linspace", "25"), ("linspace", "100"), ("linspace", "250"), ("leading", "ddim25"), ("leading", "ddim50")],
)
def test_spacings_equal_published_respacings(kind, respacing):
    steps = int(respacing.removeprefix("ddim"))
    published = arrays("schedules")[f"respacing/{respacing}"]
    assert spacing(kind, Schedule(ScheduleSpec()), steps)[::-1] == tuple(published)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_logsnr_timesteps_are_nearest_to_even_steps(kind):
    schedule = Schedule(ScheduleSpec(kind=kind))
    log_snr = np.log(schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))
    targets = np.linspace(log_snr[-1], log_snr[0], 8)
    nearest = np.abs(log_snr[None] - targets[:, None]).argmin(axis=1)
    np.testing.assert_allclose(spacing("logsnr", schedule, 8), nearest, atol=1)


def test_angle_timesteps_of_the_cosine_schedule_are_evenly_spaced():
    """The angle of the cosine schedule is proportional to time, up to its offset of 0.8 %."""
    chosen = spacing("angle", Schedule(ScheduleSpec(kind="cosine")), 8)
    np.testing.assert_allclose(chosen, 1000 * np.arange(8, 0, -1) / 8 - 1, atol=8)


@pytest.mark.parametrize("kind", ["linspace", "logsnr", "angle"])
def test_single_step_starts_at_the_last_timestep(kind):
    assert spacing(kind, Schedule(ScheduleSpec()), 1) == (999,)


def test_invalid_number_of_steps_raises():
    for steps in (0, 101):
        with pytest.raises(InputError, match=rf"1\.\.100.*given {steps}"):
            spacing("linspace", Schedule(ScheduleSpec(timesteps=100)), steps)

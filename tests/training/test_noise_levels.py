"""How often each timestep is trained: counts for the published rule, moments for a normal distribution of levels."""

import numpy as np
import pytest
import torch

from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ScheduleSpec
from rcdm_cli.errors import InputError
from rcdm_cli.training.noise_levels import cumulative_shares
from rcdm_cli.training.order import generator, stratified_timesteps
from rcdm_cli.training.recipe import NoiseLevels


def test_without_a_plan_all_timesteps_have_the_same_share():
    shares = cumulative_shares(Schedule(ScheduleSpec(timesteps=50)))
    np.testing.assert_allclose(shares, np.arange(1, 51) / 50, rtol=1e-12)
    drawn = stratified_timesteps(5000, shares, generator(0))
    assert torch.bincount(drawn).tolist() == [100] * 50


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.2), (-1.2, 1.2), (0.5, 0.6)])
def test_the_logarithm_of_noise_to_signal_is_normal(kind, mean, std):
    schedule = Schedule(ScheduleSpec(kind=kind))
    drawn = stratified_timesteps(20000, cumulative_shares(schedule, NoiseLevels(mean=mean, std=std)), generator(0))
    signal = schedule.alphas_cumprod[drawn.numpy()]
    level = 0.5 * np.log((1 - signal) / signal)
    assert level.mean() == pytest.approx(mean, abs=0.03)
    assert level.std() == pytest.approx(std, rel=0.05)
    # Normal, not just of these moments: 68.3 % lie within one deviation.
    assert (np.abs(level - mean) < std).mean() == pytest.approx(0.683, abs=0.015)


def test_a_batch_covers_the_distribution_evenly():
    shares = cumulative_shares(Schedule(ScheduleSpec()), NoiseLevels(mean=0.0, std=1.2))
    drawn = stratified_timesteps(8, shares, generator(3))
    eighth = np.digitize(drawn.numpy(), np.searchsorted(shares.numpy(), np.arange(1, 8) / 8))
    assert np.abs(np.sort(eighth) - np.arange(8)).max() <= 1
    assert int(drawn.max()) < 1000


def test_the_last_place_is_the_last_timestep(monkeypatch):
    # rand comes as near to 1 as float64 allows.
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 1 - 2**-53, dtype=torch.float64))
    shares = cumulative_shares(Schedule(ScheduleSpec(timesteps=30)), NoiseLevels(mean=0.0, std=1.0))
    assert int(stratified_timesteps(4, shares, generator(0)).max()) <= 29


def test_a_deviation_must_be_above_zero():
    with pytest.raises(InputError, match="std"):
        NoiseLevels.parse({"mean": 0, "std": 0}, "recipe.toml")


@pytest.mark.parametrize("mean", [-6.0, 10.0])
def test_a_mean_beyond_the_schedule_is_refused(mean):
    with pytest.raises(InputError, match=rf"mean must lie within the schedule's levels, -4\.6 to 5\.1; given {mean:g}"):
        cumulative_shares(Schedule(ScheduleSpec()), NoiseLevels(mean=mean, std=1.0))

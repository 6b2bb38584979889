import numpy as np
import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ScheduleSpec
from tests.diffusion.golden import arrays

RULES = ["25", "100", "250", "ddim25", "ddim50", "10,15,20"]


@pytest.fixture(scope="module")
def published():
    return arrays("schedules")


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("betas", "betas"),
        ("alphas_cumprod", "alphas_cumprod"),
        ("posterior_variance", "posterior_variance"),
        ("posterior_log_variance", "posterior_log_variance_clipped"),
        ("posterior_mean_coef1", "posterior_mean_coef1"),
        ("posterior_mean_coef2", "posterior_mean_coef2"),
    ],
)
def test_schedules_equal_golden_numbers(published, kind, ours, theirs):
    schedule = Schedule(ScheduleSpec(kind=kind))
    np.testing.assert_allclose(getattr(schedule, ours), published[f"{kind}/{theirs}"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_respaced_schedules_equal_golden_numbers(published, rule):
    respaced = Schedule(ScheduleSpec(), published[f"respacing/{rule}"].tolist())
    np.testing.assert_allclose(respaced.betas, published[f"respaced_betas_linear/{rule}"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_respaced_schedule_has_the_same_noise_levels(kind):
    schedule = Schedule(ScheduleSpec(kind=kind, timesteps=321))
    use_timesteps = list(range(0, 321, 20))
    respaced = Schedule(schedule.spec, use_timesteps)
    np.testing.assert_allclose(respaced.alphas_cumprod, schedule.alphas_cumprod[use_timesteps], rtol=1e-10)
    assert len(respaced) == 17


def test_timesteps_out_of_order_or_range_raise():
    for use_timesteps in [[], [3, 3], [4, 3], [-1, 2], [999, 1000]]:
        with pytest.raises(InputError, match=r"within 0\.\.999"):
            Schedule(ScheduleSpec(), use_timesteps)


def test_linear_schedules_of_any_length_have_the_same_final_noise():
    ends = [Schedule(ScheduleSpec(timesteps=timesteps)).alphas_cumprod[-1] for timesteps in (500, 1000, 4000)]
    np.testing.assert_allclose(np.log(ends), np.log(ends[1]), rtol=0.02)


def test_schedule_with_one_step_is_finite():
    only = Schedule(ScheduleSpec(), [999])
    for values in (only.posterior_log_variance, only.posterior_mean_coef1, only.posterior_mean_coef2, only.noise):
        assert np.isfinite(values).all()


def test_add_noise_and_predictions_equal_the_formulas():
    schedule = Schedule(ScheduleSpec())
    t = torch.tensor([0, 400, 999])
    x0, noise = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    product = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
    x_t = schedule.add_noise(x0, t, noise)
    assert x_t.dtype == torch.float32
    for sample, timestep in enumerate(t.tolist()):
        expected = np.sqrt(product[timestep]) * x0[sample] + np.sqrt(1 - product[timestep]) * noise[sample]
        torch.testing.assert_close(x_t[sample], expected.float())
        single = schedule.add_noise(x0[sample : sample + 1], timestep, noise[sample : sample + 1])
        torch.testing.assert_close(single[0], x_t[sample], rtol=0, atol=0)
    torch.testing.assert_close(
        schedule.predict_x0(x_t.double(), t, noise.double())[:2], x0[:2].double(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        schedule.predict_eps(x_t.double(), t, x0.double())[1:], noise[1:].double(), rtol=1e-5, atol=1e-5
    )


def test_posterior_mean_equals_bayes_rule():
    # q(x_(t-1) | x_t, x0) is proportional to q(x_t | x_(t-1)) q(x_(t-1) | x0), so precisions are added.
    schedule = Schedule(ScheduleSpec())
    x0, x_t, t = torch.tensor(0.3).double(), torch.tensor(-1.1).double(), 500
    before, beta = schedule.alphas_cumprod[t - 1], schedule.betas[t]
    precisions = (1 - beta) / beta + 1 / (1 - before)
    expected = (np.sqrt(1 - beta) / beta * x_t + np.sqrt(before) / (1 - before) * x0) / precisions
    torch.testing.assert_close(schedule.posterior_mean(x0, x_t, t), expected)
    assert schedule.posterior_variance[t] == pytest.approx(1 / precisions)


def test_variance_channels_interpolate_posterior_variance_and_beta():
    schedule = Schedule(ScheduleSpec())
    values = torch.tensor([-1.0, 1.0]).double().view(1, 2, 1, 1)
    low, high = schedule.learned_log_variance(values, 700).exp().flatten().tolist()
    assert (low, high) == pytest.approx((schedule.posterior_variance[700], schedule.betas[700]))

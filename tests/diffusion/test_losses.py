import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rcdm_cli.diffusion.losses import denoising_loss, hybrid_loss, min_snr_weight, simple_loss, variational_bound
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import DenoiserSpec, ScheduleSpec
from tests.diffusion.golden import published_model, tensors


@pytest.fixture(scope="module")
def schedule():
    return Schedule(ScheduleSpec())


@torch.no_grad()
def test_losses_equal_golden_numbers(schedule):
    golden = tensors("training_losses")
    unet, conditioning = published_model("unet_a")
    x_t = schedule.add_noise(golden["x0"], golden["t"], golden["noise"])
    output = unet(x_t, golden["t"], conditioning(golden["feat"], 0))
    eps, values = output.chunk(2, dim=1)
    rest = (golden["x0"], x_t, golden["t"], schedule)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(simple_loss(eps, golden["noise"]), golden["loss/mse"], **close)
    torch.testing.assert_close(variational_bound(eps, values, *rest), golden["loss/vb"], **close)
    torch.testing.assert_close(hybrid_loss(output, golden["noise"], *rest), golden["loss/loss"], **close)


def noisy(schedule, t):
    generator = torch.Generator().manual_seed(3)
    x0 = torch.randint(256, (len(t), 3, 4, 4), generator=generator) / 127.5 - 1
    noise = torch.randn(x0.shape, generator=generator)
    return x0, noise, schedule.add_noise(x0, t, noise)


def test_bound_equals_the_kl_divergence_of_gaussians(schedule):
    t = torch.tensor([2, 600])
    x0, noise, x_t = noisy(schedule, t)
    values = torch.rand(x0.shape)
    bound = variational_bound(noise + 0.1, values, x0, x_t, t, schedule)
    for sample, timestep in enumerate(t.tolist()):
        one = slice(sample, sample + 1)
        predicted = schedule.predict_x0(x_t[one], timestep, noise[one] + 0.1)
        ours = Normal(
            schedule.posterior_mean(predicted, x_t[one], timestep),
            (0.5 * schedule.learned_log_variance(values[one], timestep)).exp(),
        )
        true = Normal(
            schedule.posterior_mean(x0[one], x_t[one], timestep), float(np.sqrt(schedule.posterior_variance[timestep]))
        )
        assert float(bound[sample]) == pytest.approx(float(kl_divergence(true, ours).mean()) / np.log(2), rel=1e-3)


def test_bound_at_timestep_0_is_the_likelihood_of_8_bit_values(schedule):
    t = torch.zeros(1, dtype=torch.int64)
    x0, noise, x_t = noisy(schedule, t)
    x0[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])  # the first and the last bin are unbounded
    values = torch.ones(x0.shape)
    bound = variational_bound(noise, values, x0, x_t, t, schedule)
    mean = schedule.posterior_mean(schedule.predict_x0(x_t, 0, noise), x_t, 0)
    model = Normal(mean, float(np.sqrt(schedule.betas[0])))
    upper = torch.where(x0 > 0.999, 1.0, model.cdf(x0 + 1 / 255))
    lower = torch.where(x0 < -0.999, 0.0, model.cdf(x0 - 1 / 255))
    expected = -(upper - lower).clamp(min=1e-12).log2().mean()
    assert float(bound) == pytest.approx(float(expected), rel=2e-2)  # the tanh approximation of the cdf


def test_bound_has_no_gradient_of_eps(schedule):
    t = torch.tensor([0, 10, 900])
    x0, noise, x_t = noisy(schedule, t)
    output = torch.randn(3, 6, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (grad,) = torch.autograd.grad(hybrid_loss(output, noise, x0, x_t, t, schedule).sum(), output)
    (simple,) = torch.autograd.grad(simple_loss(output[:, :3], noise).sum(), output)
    torch.testing.assert_close(grad[:, :3], simple[:, :3])
    assert grad[:, 3:].flatten(1).any(dim=1).all()


def test_bound_is_weighted_by_the_number_of_timesteps():
    short, t = Schedule(ScheduleSpec(kind="cosine", timesteps=50)), torch.tensor([20])
    x0, noise, x_t = noisy(short, t)
    output = torch.randn(1, 6, 4, 4)
    eps, values = output.chunk(2, dim=1)
    bound = variational_bound(eps, values, x0, x_t, t, short)
    total = hybrid_loss(output, noise, x0, x_t, t, short)
    torch.testing.assert_close(total - simple_loss(eps, noise), bound * 0.05, rtol=1e-3, atol=1e-6)


def test_losses_are_float32_for_bfloat16_outputs(schedule):
    t = torch.tensor([5])
    x0, noise, x_t = noisy(schedule, t)
    output = torch.randn(1, 6, 4, 4).bfloat16()
    assert simple_loss(output[:, :3], noise).dtype == torch.float32
    assert hybrid_loss(output, noise, x0, x_t, t, schedule).dtype == torch.float32


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_give_the_same_loss_of_x0_for_each_prediction(gamma):
    """Hang et al. 2023, equation 7: the loss is min(SNR, gamma) times the squared error of x0."""
    schedule = Schedule(ScheduleSpec())
    x0, noise, error = torch.randn(3, 40, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.arange(5, 1000, 25)
    a = torch.from_numpy(schedule.alphas_cumprod)[t]
    expected = (a / (1 - a)).clamp(max=gamma) * error.square().mean(dim=(1, 2, 3))
    # A network whose prediction of x0 is wrong by ``error``.
    signal, sigma = a.sqrt().view(-1, 1, 1, 1), (1 - a).sqrt().view(-1, 1, 1, 1)
    x_t = signal * x0 + sigma * noise
    outputs = {"eps": (x_t - signal * (x0 + error)) / sigma, "v": (signal * x_t - x0 - error) / sigma}
    for prediction, output in outputs.items():
        target = noise if prediction == "eps" else signal * noise - sigma * x0
        loss = (output - target).square().mean(dim=(1, 2, 3))
        weight = min_snr_weight(schedule, t, prediction, gamma)
        torch.testing.assert_close(weight.double() * loss, expected, rtol=1e-5, atol=0)


def test_weight_multiplies_the_squared_error_but_not_the_variational_bound():
    spec = DenoiserSpec(size=4, channels=32, channel_mult=(1,), num_res_blocks=1, attention=(), learned_variance=True)
    schedule, t, weight = Schedule(ScheduleSpec()), torch.tensor([10, 500]), torch.tensor([2.0, 0.5])
    x0, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    x_t, output = schedule.add_noise(x0, t, noise), torch.randn(2, 6, 4, 4)
    plain, weighted = (denoising_loss(spec, schedule, output, x0, x_t, t, noise, w) for w in (1.0, weight))
    error = (output[:, :3] - noise).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(weighted - plain, (weight - 1) * error)

"""Training losses of the denoiser."""

import math

import torch
from torch import Tensor

from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import DenoiserSpec, Prediction


def denoising_loss(
    spec: DenoiserSpec,
    schedule: Schedule,
    output: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    noise: Tensor,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Compute the loss of a denoiser: ``hybrid_loss`` with learned variance, else ``simple_loss``.

    Args:
        spec: denoiser that predicted ``output``.
        schedule: noise schedule.
        output: prediction (B, C or 2C, H, W), any floating type.
        x0: images or latents (B, C, H, W); images are in [-1, 1].
        x_t: noisy ``x0`` (B, C, H, W).
        t: timesteps (B,).
        noise: noise in ``x_t``, (B, C, H, W).
        weight: weights (B,) of the squared error. The variational bound is not weighted.

    Returns:
        Loss, float32 (B,).
    """
    if spec.learned_variance:
        return hybrid_loss(output, noise, x0, x_t, t, schedule, weight)
    return weight * simple_loss(output, training_target(spec.prediction, schedule, x0, t, noise))


def min_snr_weight(schedule: Schedule, t: Tensor, prediction: Prediction, gamma: float) -> Tensor:
    """Return the min-SNR-gamma weights (B,) of the squared error (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    The weight of the error of x0 is min(SNR, gamma). The error of eps is SNR times the error of x0, and the error of v
    is SNR + 1 times the error of x0, so that the weights are min(SNR, gamma) / SNR and min(SNR, gamma) / (SNR + 1).
    """
    snr = schedule.signal_to_noise(t)
    return snr.clamp(max=gamma) / (snr if prediction == "eps" else snr + 1)


def training_target(prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return the target of the denoiser, (B, C, H, W): the noise for ``eps``, the velocity for ``v``."""
    return noise if prediction == "eps" else schedule.velocity(x0, t, noise)


def simple_loss(output: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error of the prediction (Ho et al. 2020, arXiv:2006.11239, equation 14).

    Args:
        output: prediction (B, C, H, W), any floating type.
        target: ``training_target`` (B, C, H, W).

    Returns:
        Loss, float32 (B,).
    """
    return (output.float() - target).square().mean(dim=(1, 2, 3))


def hybrid_loss(
    output: Tensor,
    noise: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    schedule: Schedule,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Compute ``simple_loss`` + T/1000 * ``variational_bound`` (Nichol and Dhariwal 2021, arXiv:2102.09672).

    The bound trains the variance channels only: its gradient does not reach eps.

    Args:
        output: prediction (B, 2C, H, W): eps and variance channels, any floating type.
        noise: noise in ``x_t``, (B, C, H, W).
        x0: images or latents (B, C, H, W); images are in [-1, 1].
        x_t: noisy ``x0`` (B, C, H, W).
        t: timesteps (B,).
        schedule: noise schedule.
        weight: weights (B,) of ``simple_loss``.

    Returns:
        Loss, float32 (B,).
    """
    eps, values = output.float().chunk(2, dim=1)
    bound = variational_bound(eps.detach(), values, x0, x_t, t, schedule)
    return weight * simple_loss(eps, noise) + bound * (len(schedule) / 1000)


def variational_bound(eps: Tensor, values: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Compute one term of the variational bound in bits per dimension.

    At t > 0, the term is the KL divergence of the predicted from the true Gaussian of x_(t-1) (arXiv:2006.11239,
    equation 5). At t = 0, the term is the negative log likelihood of the 8-bit image.

    Args:
        eps: predicted noise (B, C, H, W).
        values: variance channels (B, C, H, W).
        x0: images or latents (B, C, H, W); images are in [-1, 1].
        x_t: noisy ``x0`` (B, C, H, W).
        t: timesteps (B,).
        schedule: noise schedule.

    Returns:
        Bound (B,).
    """
    mean = schedule.posterior_mean(schedule.predict_x0(x_t, t, eps), x_t, t)
    log_variance = schedule.learned_log_variance(values, t)
    true_mean = schedule.posterior_mean(x0, x_t, t)
    true_log_variance = schedule.true_log_variance(t, x0)

    divergence = 0.5 * (
        log_variance
        - true_log_variance
        - 1.0
        + torch.exp(true_log_variance - log_variance)
        + (true_mean - mean).square() * torch.exp(-log_variance)
    )
    negative_log_likelihood = -_log_likelihood(x0, mean, log_variance / 2)
    nats = torch.where(t.view(-1, 1, 1, 1) == 0, negative_log_likelihood, divergence)
    return nats.mean(dim=(1, 2, 3)) / math.log(2.0)


def _log_likelihood(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log probability of 8-bit values under a Gaussian with 256 bins (arXiv:2006.11239, equation 13)."""
    centred = x0 - mean
    below_upper = _normal_cdf((centred + 1 / 255) * torch.exp(-log_std))
    below_lower = _normal_cdf((centred - 1 / 255) * torch.exp(-log_std))
    # The first and the last bin are unbounded.
    lower = torch.where(x0 < -0.999, 0.0, below_lower)
    upper = torch.where(x0 > 0.999, 1.0, below_upper)
    return torch.log((upper - lower).clamp(min=1e-12))


def _normal_cdf(x: Tensor) -> Tensor:
    """Return the tanh approximation of the normal CDF that the published models were trained with."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

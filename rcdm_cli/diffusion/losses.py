"""What a denoiser is trained to make small."""

import math

import torch
from torch import Tensor

from rcdm_cli.diffusion.schedule import Schedule


def simple_loss(output: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise (Ho et al. 2020, arXiv:2006.11239, equation 14), or of v likewise.

    Args:
        output: the denoiser's (B, 3, H, W), of any floating type.
        noise: the noise that was added, (B, 3, H, W); v where the network predicts v.

    Returns:
        float32 (B,).
    """
    return (output.float() - noise).square().mean(dim=(1, 2, 3))


def hybrid_loss(output: Tensor, noise: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """The simple loss plus T/1000 of the variational bound (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.1).

    The bound trains the variance only: no gradient of it reaches eps.

    Args:
        output: the denoiser's (B, 6, H, W), eps and variance channels, of any floating type.
        noise: the noise that was added, (B, 3, H, W).
        x0: the images (B, 3, H, W) in [-1, 1].
        x_t: the images with that noise.
        t: timesteps (B,).
        schedule: the schedule that ``x_t`` comes from.

    Returns:
        float32 (B,).
    """
    eps, values = output.float().chunk(2, dim=1)
    bound = variational_bound(eps.detach(), values, x0, x_t, t, schedule)
    return simple_loss(eps, noise) + bound * (len(schedule) / 1000)


def variational_bound(eps: Tensor, values: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """One term of the bound on the log likelihood of ``x0`` in bits per dimension, (B,).

    Above timestep 0 it is the divergence of the denoiser's Gaussian for x_(t-1) from the true one
    (arXiv:2006.11239, equation 5); at 0 it is the negative log likelihood of the image's 8-bit values.

    Args:
        eps: predicted noise (B, 3, H, W).
        values: variance channels (B, 3, H, W).
        x0: the images (B, 3, H, W) in [-1, 1].
        x_t: the images with noise.
        t: timesteps (B,).
        schedule: the schedule that ``x_t`` comes from.
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
    surprise = -_log_likelihood(x0, mean, log_variance / 2)
    nats = torch.where(t.view(-1, 1, 1, 1) == 0, surprise, divergence)
    return nats.mean(dim=(1, 2, 3)) / math.log(2.0)


def _log_likelihood(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability of each 8-bit value under a Gaussian cut into 256 bins (arXiv:2006.11239, equation 13)."""
    centred = x0 - mean
    below_upper = _normal_cdf((centred + 1 / 255) * torch.exp(-log_std))
    below_lower = _normal_cdf((centred - 1 / 255) * torch.exp(-log_std))
    # The first and the last bin reach to infinity.
    lower = torch.where(x0 < -0.999, 0.0, below_lower)
    upper = torch.where(x0 > 0.999, 1.0, below_upper)
    return torch.log((upper - lower).clamp(min=1e-12))


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation of the normal distribution function that published models were trained with."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

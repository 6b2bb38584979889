"""Small changes of images that are made to mislead: FGSM and PGD under a bound on every pixel.

Images are float32 (B, 3, H, W) in [0, 1] here, as in the papers; epsilon is in the same unit.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.core.levels import Level
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.metrics.linear_probe import LinearClassifier

Objective = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [0, 1] → what an attack maximises, (B,), each entry from its own image alone."""

PGD_REACH = 2.5
"""The steps of PGD together could go this many times epsilon (Madry et al. 2018, arXiv:1706.06083)."""


def representation(encoder: Encoder, level: Level) -> Callable[[Tensor], Tensor]:
    """``h`` (B, D) of images in [0, 1], through the encoder's own preprocessing."""
    return lambda images: encoder.encode(images * 2 - 1, level)


def cross_entropy_objective(
    encode: Callable[[Tensor], Tensor], classifier: LinearClassifier, labels: Tensor
) -> Objective:
    """Cross-entropy of the classifier at the images' classes (B,)."""
    return lambda images: F.cross_entropy(classifier.logits(encode(images)), labels, reduction="none")


def drift_objective(encode: Callable[[Tensor], Tensor], h: Tensor) -> Objective:
    """How far the representation has gone from ``h`` (B, D): 1 − cosine similarity. Needs no classes."""
    return lambda images: 1 - F.cosine_similarity(encode(images), h, dim=1)


def fgsm(objective: Objective, images: Tensor, epsilon: float) -> Tensor:
    """One step of epsilon along the sign of the gradient (Goodfellow et al. 2015, arXiv:1412.6572, section 4).

    Args:
        objective: what is maximised.
        images: (B, 3, H, W) in [0, 1].
        epsilon: largest change of a pixel, in the unit of the images.

    Returns:
        (B, 3, H, W) in [0, 1]; no value differs from its own in ``images`` by more than epsilon.
    """
    return project_linf(images.double() + epsilon * _ascent(objective, images), images, epsilon)


def pgd(objective: Objective, images: Tensor, epsilon: float, steps: int, start: Tensor | None = None) -> Tensor:
    """Steps along the sign of the gradient, each brought back to within epsilon (Madry et al. 2018, equation 1).

    Args:
        objective: what is maximised.
        images: (B, 3, H, W) in [0, 1].
        epsilon: largest change of a pixel, in the unit of the images.
        steps: how many; each goes ``PGD_REACH * epsilon / steps``.
        start: (B, 3, H, W) in [-1, 1], where to begin in units of epsilon; None is at the images themselves, where
            ``moved`` has no gradient.

    Returns:
        As ``fgsm``.
    """
    found = images if start is None else project_linf(images.double() + epsilon * start.double(), images, epsilon)
    for _ in range(steps):
        ahead = found.double() + PGD_REACH * epsilon / steps * _ascent(objective, found)
        found = project_linf(ahead, images, epsilon)
    return found


def project_linf(wanted: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The float32 images nearest to ``wanted`` in [0, 1] that are at most epsilon from ``images``, exactly.

    Args:
        wanted: float64 (B, 3, H, W).
        images: float32 (B, 3, H, W).
        epsilon: a bound that float32 rounding does not overstep either.
    """
    exact = images.double()
    bounded = torch.minimum(torch.maximum(wanted, exact - epsilon), exact + epsilon).clamp(0, 1)
    rounded = bounded.float()
    # Rounding may go past the bound; the next float32 towards the image lies within it.
    beyond = (rounded.double() - exact).abs() > epsilon
    return torch.where(beyond, torch.nextafter(rounded, images), rounded)


def _ascent(objective: Objective, images: Tensor) -> Tensor:
    """Sign of the objective's gradient at ``images``."""
    asked = images.detach().requires_grad_()
    with torch.enable_grad():
        # A sum: images do not share the gradient of one another, whatever the batch.
        [gradient] = torch.autograd.grad(objective(asked).sum(), asked)
    return gradient.sign()

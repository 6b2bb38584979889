"""Linear probe: multinomial logistic regression on frozen representations, solved to its optimum."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.seeds import derive_seed

STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Candidate L2 strengths, strongest first. Each solution initialises the search for the next."""

FITS = len(STRENGTHS) + 1
"""Number of optimisations in ``fit``."""

HOLD_OUT_EVERY = 5
"""``fit`` holds out 1 / HOLD_OUT_EVERY of the training images to select the L2 strength."""

SELECTION_TOLERANCE = 1e-3
"""Gradient tolerance during selection; the loss is within about 0.1 % of its minimum."""

FINAL_TOLERANCE = 1e-5
"""Gradient tolerance of the classifier that ``fit`` returns."""


class LinearClassifier(NamedTuple):
    """Linear classifier with logits ``h @ weight.T + bias``, which include the standardisation of ``h``.

    Attributes:
        weight: float32 (C, D).
        bias: float32 (C,).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, h: Tensor) -> Tensor:
        """Return logits (B, C) of ``h`` (B, D)."""
        return F.linear(h, self.weight, self.bias)

    def correct(self, h: Tensor, labels: Tensor) -> Tensor:
        """Return 1 for each correctly classified ``h`` (B, D), else 0: float64 (B,)."""
        return (self.logits(h).argmax(dim=1) == labels).double()

    def to(self, device: torch.device) -> "LinearClassifier":
        """Return a copy of the classifier on ``device``."""
        return LinearClassifier(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class Fit:
    """A fitted classifier, its L2 strength, and its accuracy on the held-out images."""

    classifier: LinearClassifier
    strength: float
    held_out_accuracy: float


def fit(
    h: Tensor,
    labels: Tensor,
    classes: int,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fit:
    """Select the L2 strength on held-out training images, then fit all training images.

    Args:
        h: (N, D) representations of the training images.
        labels: (N,) int64 in 0..classes-1.
        classes: number of classes C.
        seed: seed of the held-out split.
        on_progress: called with (fits done, number of fits) before each fit.

    Raises:
        InputError: fewer than two classes, or fewer than 2 * HOLD_OUT_EVERY images.
    """
    if classes < 2 or len(h) < 2 * HOLD_OUT_EVERY:
        raise InputError(
            f"A linear probe needs at least 2 classes and {2 * HOLD_OUT_EVERY} training images;"
            f" given {classes} and {len(h)}."
        )
    order = torch.from_numpy(np.random.default_rng(derive_seed("linear probe", seed)).permutation(len(h)))
    held_out, rest = order[: len(h) // HOLD_OUT_EVERY], order[len(h) // HOLD_OUT_EVERY :]
    chosen = select_strength(h, labels, classes, rest, held_out, lambda done: on_progress(done, FITS))
    on_progress(len(STRENGTHS), FITS)
    [best] = solve(h, labels, classes, [chosen.strength], FINAL_TOLERANCE)
    return Fit(best, chosen.strength, chosen.held_out_accuracy)


def select_strength(
    h: Tensor,
    labels: Tensor,
    classes: int,
    train: Tensor,
    held_out: Tensor,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Fit:
    """Fit a classifier with each of ``STRENGTHS`` and return the most accurate one on held-out images.

    Args:
        h: (N, D).
        labels: (N,) int64.
        classes: number of classes C.
        train: indices (L,) of the training images; indices may repeat.
        held_out: indices (M,) of the held-out images.
        on_progress: called with the number of strengths done before each fit.
    """
    classifiers = solve(h[train], labels[train], classes, STRENGTHS, SELECTION_TOLERANCE)
    fits = []
    for done, strength in enumerate(STRENGTHS):
        on_progress(done)
        classifier = next(classifiers)
        fits.append(Fit(classifier, strength, float(classifier.correct(h[held_out], labels[held_out]).mean())))
    # ``max`` returns the first of equally accurate classifiers: the one with the strongest regularisation.
    return max(fits, key=lambda fitted: fitted.held_out_accuracy)


def solve(
    h: Tensor, labels: Tensor, classes: int, strengths: Sequence[float], tolerance: float = FINAL_TOLERANCE
) -> Iterator[LinearClassifier]:
    """Minimise ``mean cross-entropy + strength / 2 · ‖W‖²`` over standardised ``h`` for each strength in turn.

    ``W`` are the weights of the standardised dimensions; biases are not regularised. The minimum is unique in ``W``,
    so the result does not depend on the initial value. Each search starts from the previous minimum. L-BFGS runs in
    float64 along the eigenvectors of the correlation matrix, scaled to about equal curvature of the loss. Correlated
    dimensions would need several times more steps.

    Args:
        h: (N, D).
        labels: (N,) int64.
        classes: number of classes C.
        strengths: strengths of the L2 term, above 0.
        tolerance: largest entry of the gradient along the scaled eigenvectors at the minimum.

    Yields:
        One classifier per strength.
    """
    x = h.double()
    # The population standard deviation: a choice of scale, not an estimate.
    mean, deviation = x.mean(0), x.std(0, correction=0)
    # Constant dimensions stay 0.
    deviation = torch.where(deviation > 1e-8 * mean.abs().clamp(min=1e-8), deviation, 1.0)
    x = (x - mean) / deviation
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    rotated = x @ axes
    weight, bias = torch.zeros(classes, x.shape[1], dtype=x.dtype), torch.zeros(classes, dtype=x.dtype)
    for strength in strengths:
        # For equally likely classes, the curvature of the cross-entropy is variance / classes.
        scale = (variance.clamp(min=0) / classes + strength).rsqrt()
        weight, bias = _minimum(rotated * scale, scale, labels, strength, tolerance, weight / scale, bias)
        weight = weight * scale
        folded = weight @ axes.T / deviation
        yield LinearClassifier(folded.float(), (bias - folded @ mean).float())


def _minimum(
    x: Tensor, scale: Tensor, labels: Tensor, strength: float, tolerance: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weights (C, D) and biases (C,) of the minimum; the L2 term applies to ``weight * scale``."""
    # Biases are scaled to about the same curvature as the weights.
    spread = len(bias) ** 0.5
    weight, bias = weight.requires_grad_(), (bias / spread).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, spread * bias), labels)
        value = value + strength / 2 * (weight * scale).square().sum()
        value.backward()
        return value.item()

    optimizer.step(loss)
    return weight.detach(), spread * bias.detach()

"""A linear classifier on frozen representations: multinomial logistic regression, solved to its optimum."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError

STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""L2 strengths that are tried, the strongest first: each solution is a good start for the next."""

FITS = len(STRENGTHS) + 1
"""Optima that ``fit`` solves for."""

HELD_OUT = 5
"""One training image in so many is held out to choose the L2 strength by."""

CHOOSING = 1e-3
"""Tolerance while a strength is chosen; the loss is then within about a thousandth of its minimum."""

FINAL = 1e-5
"""Tolerance of the classifier that ``fit`` gives."""


class LinearClassifier(NamedTuple):
    """Logits are ``h @ weight.T + bias``; the standardisation of ``h`` is folded in.

    Attributes:
        weight: float32 (C, D).
        bias: float32 (C,).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, h: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        return F.linear(h, self.weight, self.bias)

    def right(self, h: Tensor, labels: Tensor) -> Tensor:
        """float64 (B,): 1 where the class of ``h`` (B, D) is named rightly, else 0."""
        return (self.logits(h).argmax(dim=1) == labels).double()

    def to(self, device: torch.device) -> "LinearClassifier":
        """The same on ``device``."""
        return LinearClassifier(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class Fit:
    """A classifier, the L2 strength it was fitted with, and the accuracy on the held-out images that chose it."""

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
    """Choose the L2 strength on held-out training images, then fit all of them.

    Args:
        h: (N, D) representations of the training images.
        labels: (N,) int64 in 0..classes-1.
        classes: C.
        seed: which images are held out.
        on_progress: called with (fits done, fits) before each.

    Raises:
        InputError: fewer than two classes, or too few images to hold any out.
    """
    if classes < 2 or len(h) < 2 * HELD_OUT:
        raise InputError(
            f"A probe needs two classes and {2 * HELD_OUT} images to learn from; there are {classes} and {len(h)}."
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(h)))
    held, rest = order[: len(h) // HELD_OUT], order[len(h) // HELD_OUT :]
    chosen = choose(h, labels, classes, rest, held, lambda done: on_progress(done, FITS))
    on_progress(len(STRENGTHS), FITS)
    [best] = solve(h, labels, classes, [chosen.strength], FINAL)
    return Fit(best, chosen.strength, chosen.held_out_accuracy)


def choose(
    h: Tensor,
    labels: Tensor,
    classes: int,
    learnt: Tensor,
    held: Tensor,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Fit:
    """Of the classifiers with all ``STRENGTHS``, the one that names most of the held-out images rightly.

    Args:
        h: (N, D).
        labels: (N,) int64.
        classes: C.
        learnt: index (L,) of the images that are learnt from; one may stand there several times.
        held: index (M,) of the images that choose.
        on_progress: called with the number of strengths done, before each.
    """
    classifiers = solve(h[learnt], labels[learnt], classes, STRENGTHS, CHOOSING)
    fits = []
    for done, strength in enumerate(STRENGTHS):
        on_progress(done)
        classifier = next(classifiers)
        fits.append(Fit(classifier, strength, float(classifier.right(h[held], labels[held]).mean())))
    # The first of equally good ones, which has the strongest.
    return max(fits, key=lambda one: one.held_out_accuracy)


def solve(
    h: Tensor, labels: Tensor, classes: int, strengths: Sequence[float], tolerance: float = FINAL
) -> Iterator[LinearClassifier]:
    """Minimise ``mean cross-entropy + strength / 2 · ‖W‖²`` over standardised ``h`` for one strength after another.

    ``W`` are the weights of the standardised dimensions; biases are free. The minimum is unique in ``W``, so the
    result does not depend on where a search begins; each begins where the last ended. L-BFGS in float64 runs in the
    eigenvectors of the correlation matrix, each scaled so that the loss is about equally curved along all of them:
    several times fewer steps than along the dimensions, which are correlated.

    Args:
        h: (N, D).
        labels: (N,) int64.
        classes: C.
        strengths: of the L2 term, above 0.
        tolerance: largest entry of the gradient along the scaled eigenvectors at the end.
    """
    x = h.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    # A dimension that is the same for all images says nothing, and keeps its zero.
    deviation = torch.where(deviation > 1e-8 * mean.abs().clamp(min=1e-8), deviation, 1.0)
    x = (x - mean) / deviation
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    rotated = x @ axes
    weight, bias = torch.zeros(classes, x.shape[1], dtype=x.dtype), torch.zeros(classes, dtype=x.dtype)
    for strength in strengths:
        # Where all classes are equally likely, the cross-entropy is curved by variance / classes.
        scale = (variance.clamp(min=0) / classes + strength).rsqrt()
        weight, bias = _minimum(rotated * scale, scale, labels, strength, tolerance, weight / scale, bias)
        weight = weight * scale
        folded = weight @ axes.T / deviation
        yield LinearClassifier(folded.float(), (bias - folded @ mean).float())


def _minimum(
    x: Tensor, scale: Tensor, labels: Tensor, strength: float, tolerance: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and biases (C,) of the minimum, where ``weight * scale`` is what the L2 term holds down."""
    # So that the loss is about as curved along the biases as along the weights.
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

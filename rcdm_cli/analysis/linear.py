"""A linear classifier on frozen representations: multinomial logistic regression, solved to its optimum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.errors import InputError

STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""L2 strengths that are tried, the strongest first: each solution is a good start for the next."""

FITS = len(STRENGTHS) + 1
"""Optima that ``fit`` solves for."""

HELD_OUT = 5
"""One training photo in so many is held out to choose the L2 strength by."""


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

    def to(self, device: torch.device) -> "LinearClassifier":
        """The same on ``device``."""
        return LinearClassifier(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class Fit:
    """A classifier, the L2 strength it was fitted with, and the accuracy on the held-out photos that chose it."""

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
    """Choose the L2 strength on held-out training photos, then fit all of them.

    Args:
        h: (N, D) representations of the training photos.
        labels: (N,) int64 in 0..classes-1.
        classes: C.
        seed: which photos are held out.
        on_progress: called with (fits done, fits) before each.

    Raises:
        InputError: fewer than two classes, or too few photos to hold any out.
    """
    if classes < 2 or len(h) < 2 * HELD_OUT:
        raise InputError(
            f"A probe needs two classes and {2 * HELD_OUT} photos to learn from; there are {classes} and {len(h)}."
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(h)))
    held, rest = order[: len(h) // HELD_OUT], order[len(h) // HELD_OUT :]
    best, start = (-1.0, 0.0), None
    for done, strength in enumerate(STRENGTHS):
        on_progress(done, FITS)
        start = solve(h[rest], labels[rest], classes, strength, start, tolerance=1e-4)
        accuracy = float((start.logits(h[held]).argmax(1) == labels[held]).double().mean())
        # Of equally good strengths, the strongest.
        if accuracy > best[0]:
            best = accuracy, strength
    on_progress(len(STRENGTHS), FITS)
    return Fit(solve(h, labels, classes, best[1]), best[1], best[0])


def solve(
    h: Tensor,
    labels: Tensor,
    classes: int,
    strength: float,
    start: LinearClassifier | None = None,
    tolerance: float = 1e-6,
) -> LinearClassifier:
    """Minimise ``mean cross-entropy + strength / 2 · ‖W‖²`` over standardised ``h`` with L-BFGS in float64.

    ``W`` are the weights of the standardised dimensions; biases are free. The minimum is unique in ``W``, so the
    result depends on neither start nor seed.

    Args:
        h: (N, D).
        labels: (N,) int64.
        classes: C.
        strength: of the L2 term, above 0.
        start: where to begin.
        tolerance: largest entry of the gradient at the end.
    """
    x = h.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    # A dimension that is the same for all photos says nothing, and keeps its zero.
    deviation = torch.where(deviation > 1e-8 * mean.abs().clamp(min=1e-8), deviation, 1.0)
    x = (x - mean) / deviation
    weight, bias = torch.zeros(classes, x.shape[1], dtype=x.dtype), torch.zeros(classes, dtype=x.dtype)
    if start is not None:
        weight = start.weight.double() * deviation
        bias = start.bias.double() + start.weight.double() @ mean
    weight.requires_grad_(), bias.requires_grad_()
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
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + strength / 2 * weight.square().sum()
        value.backward()
        return value.item()

    optimizer.step(loss)
    folded = weight.detach() / deviation
    return LinearClassifier(folded.float(), (bias.detach() - folded @ mean).float())

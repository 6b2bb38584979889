"""What a probe would find had it learnt from other images of the same kind: the bootstrap over training images.

A linear classifier is solved to its optimum and k-NN has nothing to learn, so on the same images both say the same
whatever the seed. What varies in earnest is which images they learn from. Each seed draws as many training images as
there are, with replacement (Efron 1979); those that it never draws, about 37 %, choose the L2 strength. In k-NN an image
that was drawn twice is one neighbour: a copy is no second witness.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.analyses.step_cache import StepCache, hash_of
from rcdm_cli.metrics.linear_probe import STRENGTHS, select_strength
from rcdm_cli.metrics.nearest import knn_predict

NEIGHBOURS = 20


class Labelled(NamedTuple):
    """Representations float32 (N, D) and their class indices int64 (N,)."""

    h: Tensor
    labels: Tensor


class Draw(NamedTuple):
    """One seed's training images: ``learnt`` (N,) with repetitions, and ``held`` (M,), those that were never drawn."""

    learnt: Tensor
    held: Tensor


class Accuracies(NamedTuple):
    """Of one draw on the validation images, and the L2 strength of its linear classifier."""

    linear: float
    knn: float
    strength: float


def bootstrap_resample(count: int, seed: int, number: int) -> Draw:
    """Draw ``number`` of ``count`` training images, 2 or more; draws of different numbers or seeds are independent."""
    generator = np.random.default_rng([seed, number])
    while True:
        learnt = generator.integers(0, count, count)
        held = np.setdiff1d(np.arange(count), learnt)
        # Of very few images all may be drawn, which leaves none to choose the strength by.
        if len(held):
            return Draw(torch.from_numpy(learnt), torch.from_numpy(held))


def refit(
    training: Labelled,
    validation: Labelled,
    classes: int,
    *,
    seeds: int,
    seed: int,
    cache: StepCache,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Accuracies]:
    """Accuracy of both classifiers on the validation images, after each of several draws.

    Args:
        training: what is drawn from.
        validation: what is asked about.
        classes: C.
        seeds: number of draws.
        seed: the same gives the same draws, whatever the representation.
        cache: where accuracies stay until the work is done.
        on_progress: called with the number of fits done, of ``seeds * len(STRENGTHS)``.
    """
    found = []
    for number in range(seeds):

        def learn(number: int = number) -> dict[str, Tensor]:
            draw, before = bootstrap_resample(len(training.h), seed, number), number * len(STRENGTHS)
            fitted = select_strength(*training, classes, *draw, lambda done: on_progress(before + done))
            linear = fitted.classifier.correct(*validation).mean()
            different = draw.learnt.unique()
            knn = knn_correct(Labelled(training.h[different], training.labels[different]), validation).mean()
            return {"found": torch.tensor([linear, knn, fitted.strength], dtype=torch.float64)}

        key = {"step": "learn again", "of": hash_of(*training, *validation), "classes": classes, "draw": [seed, number]}
        found.append(Accuracies(*cache.get_or_compute(key, learn)["found"].tolist()))
        on_progress((number + 1) * len(STRENGTHS))
    return found


def knn_correct(training: Labelled, validation: Labelled) -> Tensor:
    """float64 (B,): 1 where the weighted vote of the nearest training images names a validation image rightly."""
    return (knn_predict(validation.h, *training, neighbours=NEIGHBOURS) == validation.labels).double()

"""What the representation of an attacked image looks like: samples beside those of the image as it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rcdm_cli.analyses.fgsm.compute import Case, Plan, Subjects, attacked
from rcdm_cli.analyses.step_cache import StepCache, cached_samples
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """One image at every pair and epsilon.

    Attributes:
        image: its number among the subjects.
        cells: by pair and epsilon, the attacked image uint8 (S, S, 3) and its samples uint8 (K, T, T, 3).
    """

    image: int
    cells: list[list[tuple[Pixels, Pixels]]]


def show_attacked(
    bundle: Bundle,
    subjects: Subjects,
    index: Sequence[int],
    pairs: Sequence[Pair],
    name: str,
    plan: Plan,
    *,
    num_samples: int,
    settings: Settings,
    cache: StepCache,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Shown]:
    """Sample the representations of images that were attacked, and of the same images at epsilon 0.

    Sample k of an image has one noise at every pair and epsilon.

    Args:
        bundle: encoders and denoiser.
        subjects: what was attacked.
        index: which images are shown.
        pairs: whose representations.
        name: of the attack.
        plan: as given to ``attack``.
        samples: K.
        settings: sampler, steps, guidance.
        cache: where samples stay until the work is done.
        batch: samples made at a time.
        on_progress: called with (samples done, samples).
    """
    images, cond = [], []
    for pair in pairs:
        for epsilon in plan.epsilons:
            _, after, h = attacked(bundle, Case(pair, name, epsilon), subjects, index, plan)
            # Rounded to the nearest of 256 levels for the eye; the representation is of the exact image.
            images.append((after * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
            cond.append(bundle.condition(h, method=pair.method, level=pair.level))
    seeds = [sample_seed(plan.seed, image, k) for image in index for k in range(num_samples)]
    flat = cached_samples(
        bundle,
        cache,
        torch.cat(cond).repeat_interleave(num_samples, dim=0),
        seeds * len(cond),
        settings,
        batch=batch,
        on_progress=on_progress,
    )
    made = flat.reshape(len(pairs), len(plan.epsilons), len(index), num_samples, *flat.shape[1:])
    return [
        Shown(
            image,
            [
                [(images[p * len(plan.epsilons) + e][i], made[p, e, i]) for e in range(len(plan.epsilons))]
                for p in range(len(pairs))
            ],
        )
        for i, image in enumerate(index)
    ]

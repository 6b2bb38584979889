"""Samples of images before and after augmentations: what the denoiser makes of the change in ``h``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rcdm_cli.analyses.invariance.compute import changed, image_size
from rcdm_cli.analyses.step_cache import StepCache, cached_representations, cached_samples
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.data.augment import AUGMENTATIONS, Augmentation
from rcdm_cli.data.crop import center_crop
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class BeforeAndAfter:
    """Samples of P images and of the same images after each augmentation at its last strength.

    Attributes:
        labels: of the 1 + A rows: ``as it is``, then augmentation and strength.
        images: uint8 (1 + A, P, size, size, 3), what was encoded.
        samples: by pair, uint8 (1 + A, P, K, S, S, 3); along the first axis the noise is the same.
        seeds: (P, K).
    """

    labels: list[str]
    images: Pixels
    samples: dict[Pair, Pixels]
    seeds: list[list[int]]

    def change(self, pair: Pair) -> list[float]:
        """Mean absolute difference of each augmentation's samples from those of the images as they are.

        A number, as a share of the pixel range, for each row but the first.
        """
        samples = self.samples[pair].astype(np.float32) / 255
        axes = tuple(range(1, samples.ndim))
        return [float(value) for value in np.abs(samples[1:] - samples[:1]).mean(axis=axes)]

    def as_json(self) -> dict[str, Any]:
        """Every number, without the pixels."""
        return {
            "rows": self.labels,
            "seeds": self.seeds,
            "change": [
                {"method": pair.method, "level": pair.level, "mean_absolute": self.change(pair)}
                for pair in self.samples
            ],
        }


def before_and_after(
    bundle: Bundle,
    cache: StepCache,
    images: Sequence[Pixels],
    pairs: Sequence[Pair],
    *,
    num_samples: int,
    settings: Settings,
    augmentations: Sequence[Augmentation] = AUGMENTATIONS,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BeforeAndAfter:
    """Sample every image as it is and after every augmentation, from the same noise.

    Args:
        bundle: encoders and denoiser.
        cache: where expensive parts lie.
        images: uint8 (H, W, 3) each; they are centre-cropped and then augmented.
        pairs: (method, level) to look at.
        samples: samples of each representation, K.
        settings: sampler, steps, guidance.
        augmentations: each is shown at its last strength.
        seed: start of all randomness.
        batch: samples made at a time.
        on_progress: called with (samples done, samples).
    """
    size = image_size(bundle, pairs)
    crops = [center_crop(image, size) for image in images]
    last = [(one, list(one.strengths)[-1]) for one in augmentations]
    rows = [crops, *(changed(crops, one, strength, seed) for one, strength in last)]
    labels = ["as it is", *(f"{one.name}\n{strength}" for one, strength in last)]
    seeds = [[sample_seed(seed, i, k) for k in range(num_samples)] for i in range(len(images))]

    known = cached_representations(bundle, cache, [image for row in rows for image in row], pairs)
    cond = [bundle.condition(h, method=pair.method, level=pair.level) for pair, h in known.items()]
    flat = [one for own in seeds for one in own] * (len(rows) * len(pairs))
    made = cached_samples(
        bundle,
        cache,
        torch.cat(cond).repeat_interleave(num_samples, dim=0),
        flat,
        settings,
        batch=batch,
        on_progress=on_progress,
    )
    shape = (len(pairs), len(rows), len(images), num_samples, *made.shape[1:])
    samples = dict(zip(pairs, made.reshape(shape), strict=True))
    return BeforeAndAfter(labels, np.stack([np.stack(row) for row in rows]), samples, seeds)

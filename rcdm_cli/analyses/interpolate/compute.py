"""What lies between two images in a representation: samples along the path from one to the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.step_cache import StepCache, cached_samples
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair

Pixels = NDArray[np.uint8]


def linear(a: Tensor, b: Tensor, positions: Tensor) -> Tensor:
    """Points (F, D) on the line through ``a`` (D,) at position 0 and ``b`` (D,) at 1."""
    return torch.lerp(a, b, positions[:, None])


def spherical(a: Tensor, b: Tensor, positions: Tensor) -> Tensor:
    """Points (F, D) on the arc through ``a`` (D,) at position 0 and ``b`` (D,) at 1.

    Directions are interpolated on the sphere (Shoemake 1985, equation for Slerp), lengths linearly.

    Raises:
        InputError: an end is zero, or the ends point in opposite directions, between which no arc is shortest.
    """
    lengths = torch.stack([a.norm(), b.norm()])
    if float(lengths.min()) == 0:
        raise InputError("A representation of zero has no direction; take the linear path.")
    first, second = F.normalize(a, dim=0), F.normalize(b, dim=0)
    # atan2 is exact for small angles too, where acos of the cosine is not.
    angle = 2 * torch.atan2((first - second).norm(), (first + second).norm())
    if float(angle) > torch.pi - 1e-4:
        raise InputError("The two representations point in opposite directions; take the linear path.")
    length = torch.lerp(lengths[0], lengths[1], positions)[:, None]
    if float(angle) < 1e-6:
        return length * first
    steps = positions[:, None]
    direction = (torch.sin((1 - steps) * angle) * first + torch.sin(steps * angle) * second) / torch.sin(angle)
    return length * direction


PATHS = {"linear": linear, "spherical": spherical}


def path_length(points: Tensor) -> float:
    """Sum of the Euclidean distances between neighbouring points (F, D)."""
    return float((points[1:] - points[:-1]).norm(dim=1).sum())


@dataclass(frozen=True)
class Journey:
    """From one image to another at one (method, level).

    Attributes:
        samples: uint8 (K, F, S, S, 3): K noises, F frames.
        distance: Euclidean, between the two images' representations.
        length: of the path through all frames' targets.
        similarity: (K, F) cosine similarity of each sample's representation to its target on the path.
        to_a: (K, F) the same to the first image's representation.
        to_b: (K, F) the same to the second image's.
        sample_length: K lengths of the path through the samples' own representations.
    """

    samples: Pixels
    distance: float
    length: float
    similarity: list[list[float]]
    to_a: list[list[float]]
    to_b: list[list[float]]
    sample_length: list[float]

    def as_json(self) -> dict[str, Any]:
        """Every number, without the pixels."""
        names = ("distance", "length", "similarity", "to_a", "to_b", "sample_length")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Interpolation:
    """Samples between every pair of images at every (method, level); the same row has the same noise throughout.

    Attributes:
        names: of the first and the second image of each pair of images.
        positions: of the F frames; 0 is the first image, 1 the second.
        path: ``linear`` or ``spherical``.
        seeds: (image pairs, K).
        journeys: by (method, level), one an image pair.
    """

    names: list[tuple[str, str]]
    positions: list[float]
    path: str
    seeds: list[list[int]]
    journeys: dict[Pair, list[Journey]]

    def as_json(self) -> dict[str, Any]:
        """Every number, without the pixels."""
        return {
            "path": self.path,
            "positions": self.positions,
            "summary": [
                {
                    "method": pair.method,
                    "level": pair.level,
                    **{
                        f"mean_{name}": float(np.mean([getattr(one, name) for one in journeys]))
                        for name in ("distance", "length", "sample_length", "similarity")
                    },
                    **{
                        f"{name}_by_position": np.mean([getattr(one, name) for one in journeys], axis=(0, 1)).tolist()
                        for name in ("similarity", "to_a", "to_b")
                    },
                }
                for pair, journeys in self.journeys.items()
            ],
            "image_pairs": [
                {
                    "a": a,
                    "b": b,
                    "seeds": self.seeds[i],
                    "representations": [
                        {"method": pair.method, "level": pair.level, **journeys[i].as_json()}
                        for pair, journeys in self.journeys.items()
                    ],
                }
                for i, (a, b) in enumerate(self.names)
            ],
        }


def interpolate(
    bundle: Bundle,
    cache: StepCache,
    names: Sequence[tuple[str, str]],
    ends: Mapping[Pair, Tensor],
    *,
    path: str,
    positions: Sequence[float],
    num_samples: int,
    settings: Settings,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Interpolation:
    """Sample samples along the path between the representations of two images (arXiv:2112.09164, figure 7).

    Args:
        bundle: encoders and denoiser.
        cache: where expensive parts lie.
        names: of each of P pairs of images.
        ends: by (method, level) to look at, float32 (P, 2, D): the representations of the two images of each pair.
        path: ``linear`` or ``spherical``.
        positions: of the frames; two or more.
        samples: noises, K; each is a row.
        settings: sampler, steps, guidance.
        seed: start of all randomness.
        batch: samples made at a time.
        on_progress: called with (samples done, samples).

    Raises:
        InputError: the spherical path does not exist between two images.
    """
    count, frames, pairs = len(names), len(positions), list(ends)
    where = torch.tensor(positions, dtype=torch.float32)
    targets = {pair: torch.stack([PATHS[path](a, b, where) for a, b in h]) for pair, h in ends.items()}

    seeds = [[sample_seed(seed, i, k) for k in range(num_samples)] for i in range(count)]
    # Order of samples: pair, image pair, noise, frame.
    cond = [
        bundle.condition(h.flatten(0, 1), method=pair.method, level=pair.level).reshape(count, 1, frames, -1)
        for pair, h in targets.items()
    ]
    rows = torch.stack(cond).expand(-1, -1, num_samples, -1, -1).flatten(0, 3)
    flat = [one for own in seeds for one in own for _ in range(frames)] * len(pairs)
    made = cached_samples(bundle, cache, rows, flat, settings, batch=batch, on_progress=on_progress)
    by_pair = made.reshape(len(pairs), count, num_samples, frames, *made.shape[1:])
    journeys = {
        pair: [_measure(bundle, pair, ends[pair][i], targets[pair][i], own[i]) for i in range(count)]
        for pair, own in zip(pairs, by_pair, strict=True)
    }
    return Interpolation(list(names), list(positions), path, seeds, journeys)


def _measure(bundle: Bundle, pair: Pair, ends: Tensor, target: Tensor, samples: Pixels) -> Journey:
    num_samples, frames = samples.shape[:2]
    flat = list(samples.reshape(-1, *samples.shape[2:]))
    found = bundle.encode(flat, method=pair.method, level=pair.level).reshape(num_samples, frames, -1)
    return Journey(
        samples,
        float((ends[1] - ends[0]).norm()),
        path_length(target),
        F.cosine_similarity(found, target, dim=-1).tolist(),
        F.cosine_similarity(found, ends[0], dim=-1).tolist(),
        F.cosine_similarity(found, ends[1], dim=-1).tolist(),
        [path_length(row) for row in found],
    )

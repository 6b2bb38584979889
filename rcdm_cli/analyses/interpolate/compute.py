"""What lies between two photos in a representation: pictures along the path from one to the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.step_cache import Kept, kept_pictures
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.noise import picture_seed
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
    """From one photo to another at one (method, level).

    Attributes:
        pictures: uint8 (K, F, S, S, 3): K noises, F frames.
        distance: Euclidean, between the two photos' representations.
        length: of the path through all frames' targets.
        similarity: (K, F) cosine similarity of each picture's representation to its target on the path.
        to_a: (K, F) the same to the first photo's representation.
        to_b: (K, F) the same to the second photo's.
        picture_length: K lengths of the path through the pictures' own representations.
    """

    pictures: Pixels
    distance: float
    length: float
    similarity: list[list[float]]
    to_a: list[list[float]]
    to_b: list[list[float]]
    picture_length: list[float]

    def as_json(self) -> dict[str, Any]:
        """Every number, without the pixels."""
        names = ("distance", "length", "similarity", "to_a", "to_b", "picture_length")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Interpolation:
    """Pictures between every pair of photos at every (method, level); the same row has the same noise throughout.

    Attributes:
        names: of the first and the second photo of each pair of photos.
        positions: of the F frames; 0 is the first photo, 1 the second.
        path: ``linear`` or ``spherical``.
        seeds: (photo pairs, K).
        journeys: by (method, level), one a photo pair.
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
                        for name in ("distance", "length", "picture_length", "similarity")
                    },
                    **{
                        f"{name}_by_position": np.mean([getattr(one, name) for one in journeys], axis=(0, 1)).tolist()
                        for name in ("similarity", "to_a", "to_b")
                    },
                }
                for pair, journeys in self.journeys.items()
            ],
            "photo_pairs": [
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
    kept: Kept,
    names: Sequence[tuple[str, str]],
    ends: Mapping[Pair, Tensor],
    *,
    path: str,
    positions: Sequence[float],
    samples: int,
    settings: Settings,
    seed: int = 0,
    batch: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Interpolation:
    """Sample pictures along the path between the representations of two photos (arXiv:2112.09164, figure 7).

    Args:
        bundle: encoders and denoiser.
        kept: where expensive parts lie.
        names: of each of P pairs of photos.
        ends: by (method, level) to look at, float32 (P, 2, D): the representations of the two photos of each pair.
        path: ``linear`` or ``spherical``.
        positions: of the frames; two or more.
        samples: noises, K; each is a row.
        settings: sampler, steps, guidance.
        seed: start of all randomness.
        batch: pictures made at a time.
        on_progress: called with (pictures done, pictures).

    Raises:
        InputError: the spherical path does not exist between two photos.
    """
    count, frames, pairs = len(names), len(positions), list(ends)
    where = torch.tensor(positions, dtype=torch.float32)
    targets = {pair: torch.stack([PATHS[path](a, b, where) for a, b in h]) for pair, h in ends.items()}

    seeds = [[picture_seed(seed, i, k) for k in range(samples)] for i in range(count)]
    # Order of pictures: pair, photo pair, noise, frame.
    cond = [
        bundle.condition(h.flatten(0, 1), method=pair.method, level=pair.level).reshape(count, 1, frames, -1)
        for pair, h in targets.items()
    ]
    rows = torch.stack(cond).expand(-1, -1, samples, -1, -1).flatten(0, 3)
    flat = [one for own in seeds for one in own for _ in range(frames)] * len(pairs)
    made = kept_pictures(bundle, kept, rows, flat, settings, batch=batch, on_progress=on_progress)
    by_pair = made.reshape(len(pairs), count, samples, frames, *made.shape[1:])
    journeys = {
        pair: [_measure(bundle, pair, ends[pair][i], targets[pair][i], own[i]) for i in range(count)]
        for pair, own in zip(pairs, by_pair, strict=True)
    }
    return Interpolation(list(names), list(positions), path, seeds, journeys)


def _measure(bundle: Bundle, pair: Pair, ends: Tensor, target: Tensor, pictures: Pixels) -> Journey:
    samples, frames = pictures.shape[:2]
    flat = list(pictures.reshape(-1, *pictures.shape[2:]))
    found = bundle.encode(flat, method=pair.method, level=pair.level).reshape(samples, frames, -1)
    return Journey(
        pictures,
        float((ends[1] - ends[0]).norm()),
        path_length(target),
        F.cosine_similarity(found, target, dim=-1).tolist(),
        F.cosine_similarity(found, ends[0], dim=-1).tolist(),
        F.cosine_similarity(found, ends[1], dim=-1).tolist(),
        [path_length(row) for row in found],
    )

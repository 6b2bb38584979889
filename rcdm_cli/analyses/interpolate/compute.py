"""Sample images along the path between the representations of two images (arXiv:2112.09164, figure 7)."""

from pathlib import Path, PurePath
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.interpolate.results import Interpolation, SampledPath
from rcdm_cli.analyses.interpolate.section import write
from rcdm_cli.analyses.run import AnalysisArguments, SamplingRun, open_sampling_run, require_at_least
from rcdm_cli.analyses.sampling_inputs import NamedRepresentations, SamplingInput, sampling_inputs
from rcdm_cli.analyses.training_distance import training_distances
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.encoders.pairs import Pair

ANIMATIONS = ("webp", "gif")


def linear(a: Tensor, b: Tensor, positions: Tensor) -> Tensor:
    """Return points (F, D) on the line through ``a`` (D,) at position 0 and ``b`` (D,) at position 1."""
    return torch.lerp(a, b, positions[:, None])


def spherical(a: Tensor, b: Tensor, positions: Tensor) -> Tensor:
    """Return points (F, D) on the arc through ``a`` (D,) at position 0 and ``b`` (D,) at position 1.

    Directions are interpolated on the sphere (Shoemake 1985, equation for Slerp), norms linearly.

    Raises:
        InputError: an end is zero, or the ends point in opposite directions, so that the shortest arc is not unique.
    """
    lengths = torch.stack([a.norm(), b.norm()])
    if float(lengths.min()) == 0:
        raise InputError("A representation of zero has no direction. Use the linear path.")
    first, second = F.normalize(a, dim=0), F.normalize(b, dim=0)
    # Unlike acos of the cosine, atan2 is accurate for small angles.
    angle = 2 * torch.atan2((first - second).norm(), (first + second).norm())
    if float(angle) > torch.pi - 1e-4:
        raise InputError("The two representations point in opposite directions. Use the linear path.")
    length = torch.lerp(lengths[0], lengths[1], positions)[:, None]
    if float(angle) < 1e-6:
        return length * first
    steps = positions[:, None]
    direction = (torch.sin((1 - steps) * angle) * first + torch.sin(steps * angle) * second) / torch.sin(angle)
    return length * direction


PATHS = {"linear": linear, "spherical": spherical}


def path_length(points: Tensor) -> float:
    """Return the sum of the Euclidean distances between neighbouring points (F, D)."""
    return float((points[1:] - points[:-1]).norm(dim=1).sum())


def interpolate(
    bundle: Bundle | str | Path,
    first: SamplingInput,
    second: SamplingInput,
    *,
    path: str = "linear",
    start: float = 0.0,
    end: float = 1.0,
    frames: int = 7,
    animation: str | None = None,
    num_samples: int = 3,
    **options: Unpack[AnalysisArguments],
) -> Interpolation:
    """Generate samples along the path between the representations of two images.

    Args:
        bundle: bundle, or its name or folder.
        first: image, a folder of images, arrays, representations, or vectors as for ``visualize``.
        second: as many images as ``first``, paired in order.
        path: ``linear``, or ``spherical`` for the arc around zero.
        start: position of the first frame; 0 is the first image, 1 the second. At least -4 and at most 4.
        end: position of the last frame.
        frames: number of positions, 2 or more.
        animation: ``webp`` or ``gif`` to write an animation too; needs ``out``.
        num_samples: number of noises, K.
        **options: see ``AnalysisArguments``.

    Raises:
        InputError: a parameter is out of range, the numbers of images differ, or a spherical path is undefined.
    """
    require_at_least(1, num_samples=num_samples)
    require_at_least(2, frames=frames)
    if path not in PATHS:
        raise InputError(unknown_name_message("path", path, PATHS))
    if animation not in (None, *ANIMATIONS):
        raise InputError(unknown_name_message("animation", str(animation), ANIMATIONS))
    for name, position in (("start", start), ("end", end)):
        if not -4 <= position <= 4:
            raise InputError(f"`{name}` must be from -4 to 4, not {position}.")
    positions = np.linspace(start, end, frames).tolist()
    with open_sampling_run(bundle, **options) as run:
        a, b = sampling_inputs(run, first), sampling_inputs(run, second)
        left, right = _readable_pairs(a, b)
        are_vectors = a.are_vectors or b.are_vectors
        distances = training_distances(
            run,
            [PurePath(path).name for path in (*a.paths, *b.paths)],
            {pair: torch.cat([a.h[pair], b.h[pair]]) for pair in run.pairs},
            are_vectors,
        )
        ends = {pair: torch.stack([a.h[pair][left], b.h[pair][right]], dim=1) for pair in run.pairs}
        where = torch.tensor(positions, dtype=torch.float32)
        targets = {
            pair: torch.stack([PATHS[path](first, second, where) for first, second in h]) for pair, h in ends.items()
        }
        count = len(left)
        seeds = sample_seeds(run.seed, [a.names[i] for i in left], num_samples)
        flat = run.sample(
            {pair: h.flatten(0, 1) for pair, h in targets.items()}, [own for own in seeds for _ in positions]
        )
        # (image pair, noise, frame): all frames of a noise form a row.
        samples = {pair: own.reshape(count, frames, *own.shape[1:]).swapaxes(1, 2) for pair, own in flat.items()}
        paths = [(a.paths[i], b.paths[j]) for i, j in zip(left, right, strict=True)]
        result = Interpolation(
            names=[(PurePath(a).name, PurePath(b).name) for a, b in paths],
            images=[(a.pixels[i], b.pixels[j]) for i, j in zip(left, right, strict=True)],
            positions=positions,
            path=path,
            seeds=seeds,
            paths={
                pair: [_measure(run, pair, ends[pair][i], targets[pair][i], own[i]) for i in range(count)]
                for pair, own in samples.items()
            },
            unreadable=[*a.unreadable, *b.unreadable],
        )
        if run.out:
            about = {**run.provenance(), "paths": [list(both) for both in paths]}
            about["inputs"] = "vectors" if are_vectors else "images"
            about |= {**distances, "unreadable": result.unreadable, "images_given": a.given + b.given}
            write(result, run.out, about, animation)
    return result


def _readable_pairs(a: NamedRepresentations, b: NamedRepresentations) -> tuple[list[int], list[int]]:
    """Return the indices in ``a`` and in ``b`` of the pairs in which both images are readable."""
    if a.given != b.given:
        raise InputError(
            f"`first` has {a.given} images and `second` has {b.given}. Images are paired in order: give two images,"
            " or two folders or files with as many images each."
        )
    both = [
        (a.positions.index(position), b.positions.index(position))
        for position in a.positions
        if position in b.positions
    ]
    if not both:
        raise InputError("No pair has two readable images.")
    return [i for i, _ in both], [j for _, j in both]


def _measure(run: SamplingRun, pair: Pair, ends: Tensor, target: Tensor, samples: Pixels) -> SampledPath:
    sample_h = run.encode_samples(pair, samples)
    return SampledPath(
        samples=samples,
        distance=float((ends[1] - ends[0]).norm()),
        length=path_length(target),
        similarity=F.cosine_similarity(sample_h, target, dim=-1).tolist(),
        to_a=F.cosine_similarity(sample_h, ends[0], dim=-1).tolist(),
        to_b=F.cosine_similarity(sample_h, ends[1], dim=-1).tolist(),
        sample_length=[path_length(row) for row in sample_h],
    )

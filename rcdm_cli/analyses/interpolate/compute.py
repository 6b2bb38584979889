"""Sample images along the path between the representations of two images (arXiv:2112.09164, figure 7)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.embed import NamedRepresentations, encode_inputs
from rcdm_cli.analyses.inputs import ImageInput
from rcdm_cli.analyses.interpolate.results import Interpolation, SampledPath
from rcdm_cli.analyses.interpolate.section import write
from rcdm_cli.analyses.run import (
    OnNote,
    OnProgress,
    as_bundle,
    chosen_pairs,
    no_note,
    no_progress,
    provenance,
    require_at_least,
    run_cache,
)
from rcdm_cli.analyses.step_cache import StepCache, sample_batches
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair

Pixels = NDArray[np.uint8]

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
    first: ImageInput | Embeddings,
    second: ImageInput | Embeddings,
    *,
    path: str = "linear",
    start: float = 0.0,
    end: float = 1.0,
    frames: int = 7,
    animation: str | None = None,
    methods: Sequence[str] | str | None = None,
    level: str = "both",
    num_samples: int = 3,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 32,
    out: str | Path | None = None,
    force: bool = False,
    cache: StepCache | None = None,
    on_progress: OnProgress = no_progress,
    on_note: OnNote = no_note,
) -> Interpolation:
    """Generate samples along the path between the representations of two images.

    Args:
        bundle: bundle, or its name or folder.
        first: image, a folder of images, arrays, or representations.
        second: as many images as ``first``, paired in order.
        path: ``linear``, or ``spherical`` for the arc around zero.
        start: position of the first frame; 0 is the first image, 1 the second. At least -4 and at most 4.
        end: position of the last frame.
        frames: number of positions, 2 or more.
        animation: ``webp`` or ``gif`` to write an animation too; needs ``out``.
        methods: methods; None selects all methods of the bundle.
        level: ``backbone``, ``projector`` or ``both``.
        num_samples: number of noises, K.
        sampler: ``ddpm``, ``ddim`` or ``dpmpp``; None selects the default of the bundle, as for the next two.
        steps: number of sampling steps.
        guidance: scale of classifier-free guidance; 1 disables guidance.
        seed: seed of the noise, which also depends on the name of the first image, see ``sample_seed``.
        batch: number of samples per batch.
        out: run folder; None writes no files.
        force: whether to replace a finished run in ``out``.
        cache: cache of expensive steps; by default a folder in ``out`` that is deleted at the end.
        on_progress: called with (stage, items done, items).
        on_note: called with a sentence for each unreadable image.

    Raises:
        InputError: a parameter is out of range, the numbers of images differ, or a spherical path is undefined.
    """
    bundle = as_bundle(bundle)
    pairs = chosen_pairs(bundle, methods, level)
    settings = bundle.settings(sampler, steps, guidance)
    require_at_least(1, num_samples=num_samples, batch=batch)
    require_at_least(2, frames=frames)
    require_at_least(0, seed=seed)
    if path not in PATHS:
        raise InputError(unknown_name_message("path", path, PATHS))
    if animation not in (None, *ANIMATIONS):
        raise InputError(unknown_name_message("animation", str(animation), ANIMATIONS))
    for name, position in (("start", start), ("end", end)):
        if not -4 <= position <= 4:
            raise InputError(f"`{name}` must be from -4 to 4, not {position}.")
    positions = np.linspace(start, end, frames).tolist()
    with run_cache(bundle, out, force, cache) as cache:
        a, b = (
            encode_inputs(bundle, given, pairs, batch=batch, cache=cache, on_progress=on_progress, on_note=on_note)
            for given in (first, second)
        )
        left, right = _readable_pairs(a, b)
        ends = {pair: torch.stack([a.h[pair][left], b.h[pair][right]], dim=1) for pair in pairs}
        where = torch.tensor(positions, dtype=torch.float32)
        targets = {pair: torch.stack([PATHS[path](one, other, where) for one, other in h]) for pair, h in ends.items()}
        count = len(left)
        seeds = sample_seeds(seed, [a.names[i] for i in left], num_samples)
        # Order of the samples: (method, level), image pair, noise, frame.
        cond = [
            bundle.condition(h.flatten(0, 1), method=pair.method, level=pair.level).reshape(count, 1, frames, -1)
            for pair, h in targets.items()
        ]
        flat = sample_batches(
            bundle,
            torch.stack(cond).expand(-1, -1, num_samples, -1, -1).flatten(0, 3),
            [one for own in seeds for one in own for _ in range(frames)] * len(pairs),
            settings,
            batch=batch,
            cache=cache,
            on_progress=partial(on_progress, "Sampling"),
        )
        samples = flat.reshape(len(pairs), count, num_samples, frames, *flat.shape[1:])
        paths = [(a.paths[i], b.paths[j]) for i, j in zip(left, right, strict=True)]
        result = Interpolation(
            [(PurePath(one).name, PurePath(other).name) for one, other in paths],
            [(a.pixels[i], b.pixels[j]) for i, j in zip(left, right, strict=True)],
            positions,
            path,
            seeds,
            {
                pair: [_measure(bundle, pair, ends[pair][i], targets[pair][i], own[i]) for i in range(count)]
                for pair, own in zip(pairs, samples, strict=True)
            },
            [*a.unreadable, *b.unreadable],
        )
        if out is not None:
            about = {**provenance(bundle, seed, settings), "paths": [list(both) for both in paths]}
            about |= {"unreadable": result.unreadable, "images_given": a.given + b.given}
            write(result, result.images, Path(out), about, animation)
    return result


def _readable_pairs(a: NamedRepresentations, b: NamedRepresentations) -> tuple[list[int], list[int]]:
    """Return the indices in ``a`` and in ``b`` of the pairs in which both images are readable."""
    if a.given != b.given:
        raise InputError(
            f"`first` has {a.given} images and `second` has {b.given}. Images are paired in order: give two images,"
            " or two folders or files with as many images each."
        )
    both = [(a.positions.index(one), b.positions.index(one)) for one in a.positions if one in b.positions]
    if not both:
        raise InputError("No pair has two readable images.")
    return [i for i, _ in both], [j for _, j in both]


def _measure(bundle: Bundle, pair: Pair, ends: Tensor, target: Tensor, samples: Pixels) -> SampledPath:
    num_samples, frames = samples.shape[:2]
    flat = list(samples.reshape(-1, *samples.shape[2:]))
    found = bundle.encode(flat, method=pair.method, level=pair.level).reshape(num_samples, frames, -1)
    return SampledPath(
        samples,
        float((ends[1] - ends[0]).norm()),
        path_length(target),
        F.cosine_similarity(found, target, dim=-1).tolist(),
        F.cosine_similarity(found, ends[0], dim=-1).tolist(),
        F.cosine_similarity(found, ends[1], dim=-1).tolist(),
        [path_length(row) for row in found],
    )

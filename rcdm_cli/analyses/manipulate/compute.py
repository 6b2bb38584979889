"""Zero or replace the dimensions that an image shares with its neighbours, and generate samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from rcdm_cli.analyses.embed import as_embeddings, bundle_encoders, load_or_embed
from rcdm_cli.analyses.inputs import ImageInput, data_name, open_images, read_one
from rcdm_cli.analyses.manipulate.results import (
    ROWS,
    ManipulatedRepresentation,
    ManipulatedRow,
    Manipulation,
    Neighbour,
    Rule,
)
from rcdm_cli.analyses.manipulate.section import write
from rcdm_cli.analyses.run import AnalysisArguments, SamplingRun, open_sampling_run, require_at_least
from rcdm_cli.analyses.training_distance import training_distances
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.nearest import nearest_without_copies

DENSE_THRESHOLD = 1.0
"""Default threshold for representations without zeros. The paper's rule would select all of their dimensions."""


def threshold_for(candidates: Tensor, rule: Rule) -> float:
    """Return the threshold of ``rule`` for representations (N, D).

    After a ReLU, pooled or not, no value is negative and some values are exactly zero.
    """
    if rule.threshold is not None:
        return rule.threshold
    return 0.0 if float(candidates.amin()) == 0 else DENSE_THRESHOLD


def shared_dimensions(neighbours: Tensor, rms: Tensor, threshold: float, share: float) -> tuple[Tensor, Tensor]:
    """Return the dimensions that are active in most neighbours (arXiv:2112.09164, section on manipulation).

    Args:
        neighbours: (K, D).
        rms: (D,), root mean square of each dimension over all candidates.
        threshold: threshold as in ``Rule``.
        share: share as in ``Rule``.

    Returns:
        Dimensions (M,) int64, ascending, and the number of neighbours in which each is active (M,) int64.
    """
    active = (neighbours.abs() > threshold * rms).sum(dim=0)
    dimensions = (active > share * len(neighbours)).nonzero().flatten()
    return dimensions, active[dimensions]


def manipulate(
    bundle: Bundle | str | Path,
    source: ImageInput,
    target: ImageInput,
    neighbours: ImageInput | Embeddings,
    *,
    nearest: int = 20,
    threshold: float | None = None,
    share: float = 0.7,
    num_samples: int = 6,
    **options: Unpack[AnalysisArguments],
) -> Manipulation:
    """Zero or replace the dimensions that an image shares with its nearest neighbours, and generate samples.

    Args:
        bundle: bundle, or its name or folder.
        source: image whose shared dimensions are replaced.
        target: image whose values are inserted.
        neighbours: candidates for the nearest neighbours of ``source``: a folder or tar of images, arrays, or
            representations of the same encoders.
        nearest: number of neighbours.
        threshold: multiple of a dimension's root mean square above which the dimension is active, see ``Rule``.
        share: a dimension is shared if it is active in more than this fraction of the neighbours, 0 to 1.
        num_samples: samples per row, K.
        **options: see ``AnalysisArguments``.

    Raises:
        InputError: a parameter is out of range, no candidate differs from the source, or the representations of the
            candidates come from other encoders.
    """
    require_at_least(1, num_samples=num_samples, nearest=nearest)
    if threshold is not None and not threshold >= 0:
        raise InputError(f"`threshold` must be at least 0, not {threshold}.")
    if not 0 <= share <= 1:
        raise InputError(f"`share` must be from 0 to 1, not {share}.")
    rule = Rule(nearest, threshold, share)
    (source_path, source_name, source_pixels), (target_path, _, target_pixels) = read_one(source), read_one(target)
    with open_sampling_run(bundle, **options) as run:
        encoders = bundle_encoders(run.bundle, run.pairs)
        candidates = load_or_embed(run, encoders, neighbours, stage="Encoding neighbours")
        h = run.encode([source_pixels, target_pixels])
        distances = training_distances(run, [PurePath(source_path).name, PurePath(target_path).name], h)
        chosen = {
            pair: _choose(h[pair], candidates.representations[pair], candidates.paths, rule) for pair in run.pairs
        }
        rows = {pair: _rows(h[pair], chosen[pair].dimensions) for pair in run.pairs}
        seeds = sample_seeds(run.seed, [source_name], num_samples)
        samples = run.sample(rows, seeds * len(ROWS))
        results = {pair: _measure(run, pair, h[pair], rows[pair], chosen[pair], own) for pair, own in samples.items()}
        unreadable = [key for key, _ in candidates.skipped]
        result = Manipulation(seeds[0], rule, len(candidates.paths), results, unreadable)
        if run.out:
            paths = {"source": source_path, "target": target_path, "neighbours": data_name(neighbours)}
            about = {
                **run.provenance(),
                "source": PurePath(source_path).name,
                "target": PurePath(target_path).name,
                "paths": paths,
                "unreadable": unreadable,
                **distances,
            }
            images = _neighbour_images(neighbours, result, num_samples)
            write(result, source_pixels, target_pixels, images, run.out, about)
    return result


@dataclass(frozen=True)
class _Chosen:
    neighbours: list[Neighbour]
    threshold: float
    dimensions: Tensor
    active: Tensor


def _choose(h: Tensor, candidates: Tensor, keys: Sequence[str], rule: Rule) -> _Chosen:
    if candidates.shape[1] != h.shape[1]:
        raise InputError(
            f"The neighbours' representations have {candidates.shape[1]} dimensions and the source's {h.shape[1]}."
            " Compute them again with this bundle: `rcdm embed`."
        )
    similarity, index = nearest_without_copies(h[0], candidates, rule.nearest)
    if not len(index):
        raise InputError("`neighbours` has no image but the source itself. Give more images.")
    # A norm needs no second tensor of squares for a million candidates.
    rms = torch.linalg.vector_norm(candidates, dim=0, dtype=torch.float32) / len(candidates) ** 0.5
    threshold = threshold_for(candidates, rule)
    dimensions, active = shared_dimensions(candidates[index].float(), rms, threshold, rule.share)
    near = [Neighbour(keys[i], value) for i, value in zip(index.tolist(), similarity.tolist(), strict=True)]
    return _Chosen(near, threshold, dimensions, active)


def _rows(h: Tensor, dimensions: Tensor) -> Tensor:
    """Return the rows (3, D) of ``ROWS`` for source and target (2, D)."""
    source, target = h
    return torch.stack(
        [source, source.index_fill(0, dimensions, 0), source.index_copy(0, dimensions, target[dimensions])]
    )


def _measure(
    run: SamplingRun, pair: Pair, ends: Tensor, rows: Tensor, chosen: _Chosen, samples: Pixels
) -> ManipulatedRepresentation:
    sample_h = run.encode_samples(pair, samples)
    source, target = ends
    # The norm of a zero representation would divide by zero.
    squared_norm = source.square().sum().clamp(min=torch.finfo(source.dtype).tiny)
    similarities = (F.cosine_similarity(sample_h, other, dim=-1).tolist() for other in (rows[:, None], source, target))
    return ManipulatedRepresentation(
        pair=pair,
        samples=samples,
        width=len(source),
        threshold=chosen.threshold,
        dimensions=chosen.dimensions.tolist(),
        active_in=chosen.active.tolist(),
        energy=float(source[chosen.dimensions].square().sum() / squared_norm),
        neighbours=chosen.neighbours,
        rows=[ManipulatedRow(*row) for row in zip(ROWS, *similarities, strict=True)],
    )


def _neighbour_images(neighbours: ImageInput | Embeddings, result: Manipulation, count: int) -> dict[str, Pixels]:
    """Read the first ``count`` neighbours at every (method, level), by path; none if only representations are given."""
    if as_embeddings(neighbours) is not None:
        return {}
    images = open_images(neighbours)  # type: ignore[arg-type]
    wanted = {neighbour.key for manipulated in result.results.values() for neighbour in manipulated.neighbours[:count]}
    return {key: images.read(i) for i, key in enumerate(images.keys) if key in wanted}

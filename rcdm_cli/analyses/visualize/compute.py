"""Sample images from representations and measure the spread and the faithfulness of the samples."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.embed import encode_inputs
from rcdm_cli.analyses.inputs import ImageInput
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
from rcdm_cli.analyses.visualize.results import ImageResult, Visualization
from rcdm_cli.analyses.visualize.sample_files import SampleFiles
from rcdm_cli.analyses.visualize.section import write
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.diversity import pixel_variance
from rcdm_cli.metrics.ranks import own_similarity, ranks

Pixels = NDArray[np.uint8]


def visualize(
    bundle: Bundle | str | Path,
    images: ImageInput | Embeddings,
    *,
    methods: Sequence[str] | str | None = None,
    level: str = "both",
    num_samples: int = 6,
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
) -> Visualization:
    """Generate samples of images at every (method, level), and measure the spread and the faithfulness of the samples.

    Args:
        bundle: bundle, or its name or folder.
        images: paths of images and folders, uint8 arrays (H, W, 3), representations, or a file of representations.
        methods: methods; None selects all methods of the bundle.
        level: ``backbone``, ``projector`` or ``both``.
        num_samples: samples per representation, K.
        sampler: ``ddpm``, ``ddim`` or ``dpmpp``; None selects the default of the bundle, as for the next two.
        steps: number of sampling steps.
        guidance: scale of classifier-free guidance; 1 disables guidance.
        seed: seed of the noise, which also depends on the names of the images, see ``sample_seed``.
        batch: number of samples per batch.
        out: run folder; None writes no files.
        force: whether to replace a finished run in ``out``.
        cache: cache of expensive steps; by default a folder in ``out`` that is deleted at the end.
        on_progress: called with (stage, items done, items).
        on_note: called with a sentence for each unreadable image.

    Raises:
        InputError: a parameter is out of range, or no image is readable.
    """
    bundle = as_bundle(bundle)
    pairs = chosen_pairs(bundle, methods, level)
    settings = bundle.settings(sampler, steps, guidance)
    require_at_least(1, num_samples=num_samples, batch=batch)
    require_at_least(0, seed=seed)
    with run_cache(bundle, out, force, cache) as cache:
        inputs = encode_inputs(
            bundle, images, pairs, batch=batch, cache=cache, on_progress=on_progress, on_note=on_note
        )
        names = [PurePath(path).name for path in inputs.paths]
        count = len(names)
        seeds = sample_seeds(seed, inputs.names, num_samples)
        cond = [bundle.condition(inputs.h[pair], method=pair.method, level=pair.level) for pair in pairs]
        with SampleFiles(Path(out), names) if out is not None else nullcontext() as files:

            def write_samples(start: int, samples: Pixels) -> None:
                for index, sample in enumerate(samples, start):
                    pair, image, k = map(int, np.unravel_index(index, (len(pairs), count, num_samples)))
                    if files:
                        files.add(image, pairs[pair], k, sample)

            flat = sample_batches(
                bundle,
                torch.cat(cond).repeat_interleave(num_samples, dim=0),
                [one for row in seeds for one in row] * len(pairs),
                settings,
                batch=batch,
                cache=cache,
                on_progress=partial(on_progress, "Sampling"),
                on_samples=write_samples,
            )
        samples = flat.reshape(len(pairs), count, num_samples, *flat.shape[1:])
        results = {pair: _measure(bundle, pair, inputs.h[pair], own) for pair, own in zip(pairs, samples, strict=True)}
        result = Visualization(names, inputs.pixels, seeds, results, inputs.unreadable)
        if files:
            about = {**provenance(bundle, seed, settings), "paths": inputs.paths, "unreadable": inputs.unreadable}
            write(result, result.images, files, about)
    return result


def _measure(bundle: Bundle, pair: Pair, h: Tensor, samples: Pixels) -> list[ImageResult]:
    count, num_samples = samples.shape[:2]
    found = bundle.encode(list(samples.reshape(-1, *samples.shape[2:])), method=pair.method, level=pair.level)
    own = torch.arange(count).repeat_interleave(num_samples)
    similarity = own_similarity(found, h[own]).reshape(count, num_samples).tolist()
    rank = ranks(found, h, own).reshape(count, num_samples).tolist()
    return [
        ImageResult(own_samples, spread(own_samples), similarity[i], rank[i]) for i, own_samples in enumerate(samples)
    ]


def spread(samples: Pixels) -> NDArray[np.float32] | None:
    """Return the standard deviation of each pixel over samples uint8 (K, H, W, 3): float32 (H, W) in [0, 0.71].

    The value is the root of ``pixel_variance``. A single sample has no spread: None.
    """
    return None if len(samples) < 2 else np.sqrt(pixel_variance(samples)).astype(np.float32)

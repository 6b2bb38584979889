"""Sample images from representations and measure the spread and the faithfulness of the samples."""

from contextlib import nullcontext
from pathlib import Path, PurePath
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.run import AnalysisArguments, SamplingRun, open_sampling_run, require_at_least
from rcdm_cli.analyses.sampling_inputs import SamplingInput, sampling_inputs
from rcdm_cli.analyses.training_distance import training_distances
from rcdm_cli.analyses.visualize.results import ImageResult, Visualization
from rcdm_cli.analyses.visualize.sample_files import SampleFiles
from rcdm_cli.analyses.visualize.section import write
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.diversity import pixel_variance
from rcdm_cli.metrics.ranks import own_similarity, ranks


def visualize(
    bundle: Bundle | str | Path,
    images: SamplingInput,
    *,
    num_samples: int = 6,
    **options: Unpack[AnalysisArguments],
) -> Visualization:
    """Generate samples of images at every (method, level), and measure the spread and the faithfulness of the samples.

    Vectors need no image. The rank of a vector is then a rank among the vectors.

    Args:
        bundle: bundle, or its name or folder.
        images: paths of images and folders, uint8 arrays (H, W, 3), representations, or a file of representations; or
            vectors (N, D) of one method and level: an array, a tensor, or a ``.npy``, ``.npz`` or ``.safetensors`` file
            with one array.
        num_samples: samples per representation, K.
        **options: see ``AnalysisArguments``.

    Raises:
        InputError: a parameter is out of range, or no image is readable.
    """
    require_at_least(1, num_samples=num_samples)
    with open_sampling_run(bundle, **options) as run:
        inputs = sampling_inputs(run, images)
        names = [PurePath(path).name for path in inputs.paths]
        distances = training_distances(run, names, inputs.h, inputs.are_vectors)
        seeds = sample_seeds(run.seed, inputs.names, num_samples)
        with SampleFiles(run.out, names) if run.out and not run.cache.shard else nullcontext() as files:

            def write_samples(start: int, samples: Pixels) -> None:
                for index, sample in enumerate(samples, start):
                    pair, image, k = map(int, np.unravel_index(index, (len(run.pairs), len(names), num_samples)))
                    if files:
                        files.add(image, run.pairs[pair], k, sample)

            samples = run.sample(inputs.h, seeds, on_samples=write_samples)
        results = {pair: _measure(run, pair, inputs.h[pair], own) for pair, own in samples.items()}
        result = Visualization(names, inputs.pixels, seeds, results, inputs.unreadable)
        if files:
            about = {**run.provenance(), "paths": inputs.paths, "unreadable": inputs.unreadable, **distances}
            about["inputs"] = "vectors" if inputs.are_vectors else "images"
            write(result, files, about)
    return result


def _measure(run: SamplingRun, pair: Pair, h: Tensor, samples: Pixels) -> list[ImageResult]:
    count, num_samples = samples.shape[:2]
    sample_h = run.encode_samples(pair, samples).flatten(0, 1)
    own = torch.arange(count).repeat_interleave(num_samples)
    similarity = own_similarity(sample_h, h[own]).reshape(count, num_samples).tolist()
    rank = ranks(sample_h, h, own).reshape(count, num_samples).tolist()
    return [
        ImageResult(own_samples, spread(own_samples), similarity[i], rank[i]) for i, own_samples in enumerate(samples)
    ]


def spread(samples: Pixels) -> NDArray[np.float32] | None:
    """Return the standard deviation of each pixel over samples uint8 (K, H, W, 3): float32 (H, W) in [0, 0.71].

    The value is the root of ``pixel_variance``. A single sample has no spread: None.
    """
    return None if len(samples) < 2 else np.sqrt(pixel_variance(samples)).astype(np.float32)

"""Expected cost of an analysis, computed from the numbers of its inputs without any work."""

from dataclasses import dataclass
from typing import Any

from rcdm_cli.analyses.embed import as_embeddings
from rcdm_cli.analyses.inputs import open_images
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.diffusion.spec import Settings
from rcdm_cli.encoders.vectors import is_vectors, read_vectors


@dataclass(frozen=True)
class Plan:
    """Expected cost of a command.

    Attributes:
        images: number of images, representations or vectors.
        samples: number of samples.
        network_calls: passes of single samples through the denoiser; guidance needs two passes per step. For a
            training, forward and backward passes of single images.
        disk_bytes: upper bound of the files that are written, without the page.
        memory_bytes: weights, images and samples, without activations of the networks.
    """

    images: int
    samples: int
    network_calls: int
    disk_bytes: int
    memory_bytes: int


def count_inputs(inputs: Any, split: str | None = None, limit: int | None = None) -> int:
    """Return the number of images, stored representations or vectors.

    Raises:
        InputError: the inputs do not exist.
    """
    one = inputs[0] if isinstance(inputs, list | tuple) and len(inputs) == 1 else inputs
    if not isinstance(one, list | tuple) and is_vectors(one):
        count = len(read_vectors(one))
    elif (stored := as_embeddings(inputs)) is not None:
        count = len(stored.paths)
    else:
        count = len(open_images(inputs, split))
    return count if limit is None else min(count, limit)


def sampling_plan(bundle: Bundle, images: int, samples: int, settings: list[Settings]) -> Plan:
    """Return the cost of an analysis.

    Args:
        bundle: bundle with the encoders and the denoiser.
        images: number of images.
        samples: number of samples with each of ``settings``.
        settings: sampling settings.
    """
    manifest = bundle.manifest
    size = max(manifest.denoiser.size, *(entry.spec.preprocessing.size for entry in manifest.encoders.values()))
    files = [manifest.model, *manifest.encoders.values()]
    weights = sum((bundle.folder / entry.file).stat().st_size for entry in files)
    pixels = samples * len(settings) * 3 * bundle.size**2
    calls = samples * sum(bundle.calls(each) for each in settings)
    # Samples are cached while the command runs, and may be written as PNG files, which are not larger.
    return Plan(images, samples * len(settings), calls, 2 * pixels, weights + images * 3 * size**2 + pixels)

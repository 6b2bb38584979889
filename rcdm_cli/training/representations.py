"""Representations of training images: cached on disk, or computed in each step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.data.array_file import ArrayWriter, Rows, open_array
from rcdm_cli.data.encode import encode_crops, max_encode_batch
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder

CacheType = Literal["float32", "float16"]


class Representations(Protocol):
    """Source of the representations of a training step."""

    projections: tuple[Representation, ...]

    def take(self, projection: int, index: Tensor, flip: Tensor) -> Tensor:
        """Return ``h`` (B, D) for ``projections[projection]`` of images ``index`` (B,), flipped where ``flip`` (B,).

        The tensor is on the CPU, with the type of the cache. Call ``float`` on the device of the training.
        """

    def statistics(self, projection: int) -> tuple[Tensor, Tensor]:
        """Return mean (D,) and covariance (D, D), float64, over images and their mirror images."""


@dataclass(frozen=True)
class EncoderInputs:
    """An encoder and the training images at its input size.

    Attributes:
        encoder: encoder.
        images: uint8 (N, S, S, 3).
        name: key of the cache files.
    """

    encoder: Encoder
    images: np.ndarray
    name: str


def encode_flipped(encoder: Encoder, images: np.ndarray, flip: np.ndarray, device: torch.device) -> list[Tensor]:
    """Encode images uint8 (B, S, S, 3), flipped where ``flip`` (B,): float32 (B, D) per level, on the CPU."""
    return encode_crops(encoder, np.where(flip[:, None, None, None], images[:, :, ::-1], images), device)


class CachedRepresentations:
    """Representations of all images and their mirror images, in memory-mapped files ``<name>-<level>.npy`` (N, 2, D).

    Args:
        sources: encoders and their input images.
        projections: representations to return.
        folder: folder of the cache files. Missing files are computed.
        device: device of the encoders.
        on_progress: called with (images encoded, images to encode).
        dtype: type of the cache. float16 needs half of the disk and of the transfers to a GPU.
    """

    def __init__(
        self,
        sources: list[EncoderInputs],
        projections: tuple[Representation, ...],
        folder: Path,
        device: torch.device,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        dtype: CacheType = "float32",
    ) -> None:
        self.projections = projections
        by_method = {source.encoder.spec.method: source for source in sources}

        def path(source: EncoderInputs, level: str) -> Path:
            return cache_path(folder, source.name, level, dtype)

        missing = [s for s in sources if not all(path(s, level).exists() for level in s.encoder.spec.levels)]
        total, new = (sum(2 * len(source.images) for source in part) for part in (sources, missing))
        done = total - new
        on_progress(done, total)
        for source in missing:
            for count in _compute(source, [path(source, level) for level in source.encoder.spec.levels], dtype, device):
                done += count
                on_progress(done, total)
        # An image and its mirror image are two rows.
        self.rows = [
            Rows(open_array(path(by_method[projection.method], projection.level)).reshape(-1, projection.width))
            for projection in projections
        ]

    def take(self, projection: int, index: Tensor, flip: Tensor) -> Tensor:
        """Read ``h`` from the cache."""
        return torch.from_numpy(self.rows[projection].take((2 * index + flip).numpy()))

    def statistics(self, projection: int) -> tuple[Tensor, Tensor]:
        """Compute mean and covariance over at most 16,384 images."""
        index = _evenly_spaced(len(self.rows[projection]) // 2, 16384)
        return _statistics(torch.cat([self.take(projection, index, torch.full_like(index, side)) for side in (0, 1)]))


def cache_path(folder: Path, name: str, level: str, dtype: CacheType) -> Path:
    """Return the cache file of one level. ``name`` is the key of the encoder and of the images."""
    return folder / f"{name}-{level}{'' if dtype == 'float32' else f'-{dtype}'}.npy"


def _compute(source: EncoderInputs, paths: Sequence[Path], dtype: CacheType, device: torch.device) -> Iterator[int]:
    """Write the cache files of all levels, and yield the number of encoded images after each batch.

    The files of an interrupted call are continued.
    """
    encoder, images = source.encoder.to(device), Rows(source.images)
    chunk = max_encode_batch(source.images.shape[1])
    with ExitStack() as stack:
        writers = [
            stack.enter_context(ArrayWriter(path, (2, encoder.spec.width_at(level)), dtype))
            for path, level in zip(paths, encoder.spec.levels, strict=True)
        ]
        # The same batches as in an uninterrupted call give the same rounding.
        first = min(writer.rows for writer in writers) // chunk * chunk
        if first:
            yield 2 * first
        for start in range(first, len(images), chunk):
            part = images.take(np.arange(start, min(start + chunk, len(images))))
            both = []
            for flip in (False, True):
                both.append(encode_flipped(encoder, part, np.full(len(part), flip), device))
                yield len(part)
            for writer, sides in zip(writers, zip(*both, strict=True), strict=True):
                # The files of an interrupted call may have different numbers of rows.
                writer.append(torch.stack(sides, dim=1).numpy()[writer.rows - start :])
        for writer in writers:
            writer.finish()


class ComputedRepresentations:
    """Representations without a cache: the encoder runs in each step."""

    def __init__(
        self, sources: list[EncoderInputs], projections: tuple[Representation, ...], device: torch.device
    ) -> None:
        self.projections, self.device = projections, device
        self.sources = {source.encoder.spec.method: source for source in sources}
        for source in sources:
            source.encoder.to(device)

    def take(self, projection: int, index: Tensor, flip: Tensor) -> Tensor:
        """Compute ``h`` with the encoder."""
        source, level = self.sources[self.projections[projection].method], self.projections[projection].level
        levels = encode_flipped(source.encoder, source.images[index.numpy()], flip.numpy(), self.device)
        return levels[source.encoder.spec.levels.index(level)]

    def statistics(self, projection: int) -> tuple[Tensor, Tensor]:
        """Compute mean and covariance over at most 1,024 images."""
        index = _evenly_spaced(len(self.sources[self.projections[projection].method].images), 1024)
        h = [self.take(projection, index, torch.full_like(index, flip, dtype=torch.bool)) for flip in (0, 1)]
        return _statistics(torch.cat(h))


def _evenly_spaced(count: int, limit: int) -> Tensor:
    """Return at most ``limit`` indices of 0..count-1, the first and the last included."""
    return torch.from_numpy(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))


def _statistics(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of ``h`` (N, D) in float64. Chunks avoid a float64 copy of a large ``h``."""
    mean = h.mean(dim=0, dtype=torch.float64)
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in h.split(2048):
        centred = part.double() - mean
        products.addmm_(centred.T, centred)
    return mean, products / len(h)

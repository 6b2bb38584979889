"""Representations of training images: cached on disk, or computed in each step."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.files import atomic_write
from rcdm_cli.data.encode import encode_crops, max_encode_batch
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder


class Representations(Protocol):
    """Source of the representations of a training step."""

    projections: tuple[Representation, ...]

    def take(self, projection: int, index: Tensor, flip: Tensor) -> Tensor:
        """Return ``h`` (B, D) for ``projections[projection]`` of images ``index`` (B,), flipped where ``flip`` (B,)."""

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
    """

    def __init__(
        self,
        sources: list[EncoderInputs],
        projections: tuple[Representation, ...],
        folder: Path,
        device: torch.device,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.projections = projections
        by_method = {source.encoder.spec.method: source for source in sources}
        missing = [s for s in sources if not all(_path(folder, s, level).exists() for level in s.encoder.spec.levels)]
        total, new = (sum(2 * len(source.images) for source in part) for part in (sources, missing))
        done = total - new
        on_progress(done, total)
        for source in missing:
            for count in _compute(source, folder, device):
                done += count
                on_progress(done, total)
        self.arrays = [
            np.load(_path(folder, by_method[projection.method], projection.level), mmap_mode="r")
            for projection in projections
        ]

    def take(self, projection: int, index: Tensor, flip: Tensor) -> Tensor:
        """Read ``h`` from the cache."""
        return torch.from_numpy(self.arrays[projection][index.numpy(), flip.numpy().astype(np.int64)])

    def statistics(self, projection: int) -> tuple[Tensor, Tensor]:
        """Compute mean and covariance over at most 16,384 images."""
        array = self.arrays[projection]
        return _statistics(torch.from_numpy(array[_evenly_spaced(len(array), 16384).numpy()]).flatten(0, 1))


def _path(folder: Path, source: EncoderInputs, level: str) -> Path:
    return folder / f"{source.name}-{level}.npy"


def _compute(source: EncoderInputs, folder: Path, device: torch.device) -> Iterator[int]:
    encoder, images = source.encoder.to(device), source.images
    chunk = max_encode_batch(images.shape[1])
    with contextlib.ExitStack() as stack:
        arrays = []
        for level in encoder.spec.levels:
            temporary = stack.enter_context(atomic_write(_path(folder, source, level)))
            shape = (len(images), 2, encoder.spec.width_at(level))
            arrays.append(np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape))
        for start in range(0, len(images), chunk):
            part = images[start : start + chunk]
            for flip in (False, True):
                levels = encode_flipped(encoder, part, np.full(len(part), flip), device)
                for array, h in zip(arrays, levels, strict=True):
                    array[start : start + chunk, int(flip)] = h.numpy()
                yield len(part)
        for array in arrays:
            array.flush()


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

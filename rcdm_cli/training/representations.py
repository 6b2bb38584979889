"""Representations of the training images: computed once and cached, or computed at each step."""

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
    """Where a training step takes ``h`` from."""

    projections: tuple[Representation, ...]

    def take(self, projection: int, index: Tensor, flip: Tensor) -> Tensor:
        """``h`` (B, D) at ``projections[projection]`` of the images ``index`` (B,), mirrored where ``flip`` (B,) is True."""

    def statistics(self, projection: int) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D), float64, over both views of many images, spread over the set."""


@dataclass(frozen=True)
class EncoderInputs:
    """An encoder and the training images at its own size, uint8 (N, S, S, 3); ``name`` keys the cache."""

    encoder: Encoder
    images: np.ndarray
    name: str


def represent(encoder: Encoder, images: np.ndarray, flip: np.ndarray, device: torch.device) -> list[Tensor]:
    """Encode images uint8 (B, S, S, 3), mirrored where ``flip`` (B,) is True.

    Returns:
        One float32 tensor (B, D) per level, on the CPU.
    """
    return encode_crops(encoder, np.where(flip[:, None, None, None], images[:, :, ::-1], images), device)


class CachedRepresentations:
    """Both views of every image at every level, in memory-mapped files ``<name>-<level>.npy`` (N, 2, D)."""

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
        """Read from the cache."""
        return torch.from_numpy(self.arrays[projection][index.numpy(), flip.numpy().astype(np.int64)])

    def statistics(self, projection: int) -> tuple[Tensor, Tensor]:
        """Over at most 16,384 images."""
        array = self.arrays[projection]
        return _statistics(torch.from_numpy(array[_spread(len(array), 16384).numpy()]).flatten(0, 1))


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
            for view in (False, True):
                levels = represent(encoder, part, np.full(len(part), view), device)
                for array, h in zip(arrays, levels, strict=True):
                    array[start : start + chunk, int(view)] = h.numpy()
                yield len(part)
        for array in arrays:
            array.flush()


class ComputedRepresentations:
    """The same without a cache: the encoder runs on the images of every step."""

    def __init__(
        self, sources: list[EncoderInputs], projections: tuple[Representation, ...], device: torch.device
    ) -> None:
        self.projections, self.device = projections, device
        self.sources = {source.encoder.spec.method: source for source in sources}
        for source in sources:
            source.encoder.to(device)

    def take(self, projection: int, index: Tensor, flip: Tensor) -> Tensor:
        """Run the encoder."""
        source, level = self.sources[self.projections[projection].method], self.projections[projection].level
        levels = represent(source.encoder, source.images[index.numpy()], flip.numpy(), self.device)
        return levels[source.encoder.spec.levels.index(level)]

    def statistics(self, projection: int) -> tuple[Tensor, Tensor]:
        """Over at most 1,024 images."""
        index = _spread(len(self.sources[self.projections[projection].method].images), 1024)
        h = [self.take(projection, index, torch.full_like(index, view, dtype=torch.bool)) for view in (0, 1)]
        return _statistics(torch.cat(h))


def _spread(count: int, limit: int) -> Tensor:
    """At most ``limit`` of 0..count-1, the first and the last among them."""
    return torch.from_numpy(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))


def _statistics(h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (N, D), in float64 chunk by chunk: a wide ``h`` is not held twice."""
    mean = h.mean(dim=0, dtype=torch.float64)
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in h.split(2048):
        centred = part.double() - mean
        products.addmm_(centred.T, centred)
    return mean, products / len(h)

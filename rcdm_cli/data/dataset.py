"""A set of images as training reads it: every image cropped once to one size, in memory or in a file.

The listing itself is ``source.open_images``, which is offered here too.
"""

import json
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import atomic_write, write_json
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.image_file import UnreadableImage
from rcdm_cli.data.source import ImageDataset

_BLOCK = 256


@dataclass(frozen=True)
class Cropped:
    """Images of one size.

    Attributes:
        images: uint8 (N, size, size, 3); read-only and paged in from the disk where a cache was given.
        keys: N keys, in the order of the source.
        labels: N labels, as in the source.
        skipped: key and reason of each image that could not be read.
    """

    images: NDArray[np.uint8]
    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    skipped: tuple[tuple[str, str], ...]


def load_cropped(
    source: ImageDataset,
    size: int,
    on_progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Cropped:
    """Centre-crop every image of ``source``; those that cannot be read are left out and named in ``skipped``.

    Args:
        source: which images.
        size: pixels along each side.
        on_progress: called with (images done, images in all) after each image.
        cache: a folder. The crops are written to a file in it, which is used again as long as the source's listing and
            ``size`` stay the same; a set larger than the memory needs this. Without it, the crops are in memory.

    Raises:
        InputError: no image could be read.
        RcdmError: the cache cannot be written.
    """
    if cache is None:
        images: NDArray[np.uint8] = np.empty((len(source), size, size, 3), np.uint8)
        rows = iter(images)
        skipped = _crop_all(source, size, lambda crop: np.copyto(next(rows), crop), on_progress)
        return _cropped(source, images, skipped)

    file = cache / f"{source.fingerprint()[:32]}-{size}.u8"
    notes = file.with_suffix(".json")
    if not (file.is_file() and notes.is_file()):
        with atomic_write(file) as temporary, temporary.open("wb") as out:
            skipped = _crop_all(source, size, lambda crop: out.write(crop.tobytes()), on_progress)
        write_json(notes, {"skipped": {str(index): reason for index, reason in skipped.items()}})
    skipped = {int(index): reason for index, reason in json.loads(notes.read_text("utf-8"))["skipped"].items()}
    shape = (len(source) - len(skipped), size, size, 3)
    return _cropped(source, np.memmap(file, np.uint8, "r", shape=shape), skipped)


def _cropped(source: ImageDataset, images: NDArray[np.uint8], skipped: dict[int, str]) -> Cropped:
    kept = [index for index in range(len(source)) if index not in skipped]
    return Cropped(
        images=images[: len(kept)],
        keys=tuple(source.keys[index] for index in kept),
        labels=tuple(source.labels[index] for index in kept),
        skipped=tuple((source.keys[index], reason) for index, reason in skipped.items()),
    )


def _crop_all(
    source: ImageDataset,
    size: int,
    keep: Callable[[NDArray[np.uint8]], Any],
    on_progress: Callable[[int, int], None] | None,
) -> dict[int, str]:
    """Give every crop to ``keep`` in the source's order; returns index and reason of those that have none."""
    skipped: dict[int, str] = {}
    for block in read_crops(source, {size}, range(len(source)), _BLOCK):
        for index, crops in block:
            if isinstance(crops, UnreadableImage):
                skipped[index] = crops.reason
            else:
                keep(crops[size])
            if on_progress:
                on_progress(index + 1, len(source))
    if len(skipped) == len(source):
        raise InputError(f"None of the {len(source)} images in {source.root} can be read; the first: {skipped[0]}.")
    return skipped


def read_crops(
    source: ImageDataset, sizes: Collection[int], index: range, block: int
) -> Iterator[list[tuple[int, dict[int, NDArray[np.uint8]] | UnreadableImage]]]:
    """Read and centre-crop images in threads.

    The next block is read while the caller works on the current block.

    Args:
        source: images.
        sizes: heights and widths of the crops in pixels.
        index: indices of the images.
        block: images per block.

    Yields:
        Blocks of (index, crops by size, or the error of an unreadable image), in the order of ``index``.
    """

    def read(number: int) -> tuple[int, dict[int, NDArray[np.uint8]] | UnreadableImage]:
        try:
            image = source.read(number)
        except UnreadableImage as error:
            return number, error
        return number, {size: center_crop(image, size) for size in sizes}

    pool = ThreadPoolExecutor()
    try:
        ahead = [pool.submit(read, number) for number in index[:block]]
        for start in range(block, len(index) + block, block):
            current, ahead = ahead, [pool.submit(read, number) for number in index[start : start + block]]
            yield [crops.result() for crops in current]
    finally:
        pool.shutdown(cancel_futures=True)

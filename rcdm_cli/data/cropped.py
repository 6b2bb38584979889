"""Centre crops of a whole dataset: read in threads, cached in memory or in a file."""

import json
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import read_arrays, read_json_lines, write_json
from rcdm_cli.core.spec import Spec
from rcdm_cli.data.array_file import ArrayWriter, open_array, partial_path
from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.data.image_file import Pixels, UnreadableImage

_BLOCK = 256


@dataclass(frozen=True)
class CroppedImages:
    """Centre crops of the readable images of a dataset.

    Attributes:
        images: uint8 (N, size, size, 3). Cached images are memory-mapped and read-only.
        keys: N keys, in the order of the dataset.
        labels: N labels of the dataset.
        skipped: key and reason of each unreadable image.
    """

    images: Pixels
    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    skipped: tuple[tuple[str, str], ...]


def load_cropped(
    source: ImageDataset,
    size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    cache: Path | None = None,
) -> CroppedImages:
    """Centre-crop every image of ``source``.

    Args:
        source: images.
        size: height and width of the crops in pixels.
        on_progress: called with (images done, number of images) after each image.
        cache: folder of the cache file, which is reused while names and contents of the images and ``size`` are
            unchanged. An interrupted call is continued by the next call. None stores the crops in memory.

    Raises:
        InputError: no image is readable.
        RcdmError: the cache cannot be written.
    """
    if cache is None:
        images: Pixels = np.empty((len(source), size, size, 3), np.uint8)
        rows = iter(images)
        skipped: dict[int, str] = {}
        _crop_all(source, size, lambda crop: np.copyto(next(rows), crop), skipped.__setitem__, on_progress)
        _require_readable(source, skipped)
        return _cropped(source, images, skipped)

    file = cache / f"{source.fingerprint(cache)[:32]}-{size}.npy"
    notes = file.with_suffix(".json")
    if (found := _read_cache(source, size, file, notes)) is None:
        _write_crops(source, size, file, notes, on_progress)
        found = _read_cache(source, size, file, notes)
    # A process can be killed after the cache is complete.
    partial_path(notes).unlink(missing_ok=True)
    if found is None:
        raise RcdmError(f"The cache {file} cannot be read. Remove the file.")
    return found


class _Notes(Spec):
    """Reason of each unreadable image, by index."""

    skipped: dict[int, str]


def _read_cache(source: ImageDataset, size: int, file: Path, notes: Path) -> CroppedImages | None:
    """Return the cached crops; None if a file is missing or damaged."""
    try:
        skipped = _Notes.parse_json(notes.read_bytes(), str(notes)).skipped
        read_arrays(file)
        images = open_array(file)
    except (OSError, InputError):
        return None
    expected = (len(source) - len(skipped), size, size, 3)
    whole = isinstance(images, np.memmap) and file.stat().st_size == images.offset + images.nbytes
    if (
        not whole
        or images.shape != expected
        or images.dtype != np.uint8
        or not skipped.keys() <= set(range(len(source)))
    ):
        return None
    return _cropped(source, images, skipped)


def _write_crops(
    source: ImageDataset, size: int, file: Path, notes: Path, on_progress: Callable[[int, int], None]
) -> None:
    """Write the crops to ``file`` and the unreadable images to ``notes``; continue after an interruption.

    The reason of an unreadable image is written before the crops that follow. The two hidden files of an interrupted
    call therefore determine the next image.
    """
    unreadable = partial_path(notes)
    skipped: dict[int, str] = dict(read_json_lines(unreadable))
    with ArrayWriter(file, (size, size, 3), np.uint8) as crops:
        start = 0
        for _ in range(crops.rows):
            while start in skipped:
                start += 1
            start += 1
        skipped = {index: reason for index, reason in skipped.items() if index < start}
        with unreadable.open("w", encoding="utf-8", buffering=1) as log:

            def skip(index: int, reason: str) -> None:
                skipped[index] = reason
                log.write(json.dumps([index, reason]) + "\n")

            for index, reason in list(skipped.items()):
                skip(index, reason)
            _crop_all(source, size, lambda crop: crops.append(crop[None]), skip, on_progress, start)
        if crops.rows:
            write_json(notes, {"skipped": {str(index): reason for index, reason in skipped.items()}})
            crops.finish()
    unreadable.unlink()
    crops.partial.unlink(missing_ok=True)
    _require_readable(source, skipped)


def _cropped(source: ImageDataset, images: Pixels, skipped: dict[int, str]) -> CroppedImages:
    readable = [index for index in range(len(source)) if index not in skipped]
    return CroppedImages(
        images=images[: len(readable)],
        keys=tuple(source.keys[index] for index in readable),
        labels=tuple(source.labels[index] for index in readable),
        skipped=tuple((source.keys[index], reason) for index, reason in skipped.items()),
    )


def _crop_all(
    source: ImageDataset,
    size: int,
    on_crop: Callable[[Pixels], Any],
    on_skip: Callable[[int, str], None],
    on_progress: Callable[[int, int], None],
    start: int = 0,
) -> None:
    """Call ``on_crop`` with every crop from image ``start``, and ``on_skip`` with index and reason of the others."""
    for block in read_crops(source, {size}, range(start, len(source)), _BLOCK):
        for index, crops in block:
            if isinstance(crops, UnreadableImage):
                on_skip(index, crops.reason)
            else:
                on_crop(crops[size])
            on_progress(index + 1, len(source))


def _require_readable(source: ImageDataset, skipped: dict[int, str]) -> None:
    if len(skipped) == len(source):
        raise InputError(f"None of the {len(source)} images in {source.root} is readable. First error: {skipped[0]}.")


def read_crops(
    source: ImageDataset, sizes: Collection[int], index: range, block: int
) -> Iterator[list[tuple[int, dict[int, Pixels] | UnreadableImage]]]:
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

    def read(number: int) -> tuple[int, dict[int, Pixels] | UnreadableImage]:
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

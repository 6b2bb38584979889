"""Images that the user gives as paths, arrays or datasets, read into arrays or opened for reading."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rcdm_cli.analyses.run import OnNote, Run, no_note
from rcdm_cli.analyses.step_cache import images_hash
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.content import Entry
from rcdm_cli.data.crop import halved
from rcdm_cli.data.cropped import CroppedImages, load_cropped
from rcdm_cli.data.dataset import ImageDataset, open_dataset
from rcdm_cli.data.encode import check_images
from rcdm_cli.data.find import clean_name, find_images, refuse_archive
from rcdm_cli.data.image_file import Pixels, UnreadableImage, read_image

ImageInput = str | Path | Pixels | Sequence[str | Path] | Sequence[Pixels]
"""A path of an image, a folder or a tar; several paths; or uint8 arrays (H, W, 3)."""


@dataclass(frozen=True)
class ReadImages:
    """Images that were read from files or given as arrays.

    Attributes:
        paths: N paths; the index of an array.
        names: N distinct names, see ``FoundImage``; the index of an array.
        pixels: N images uint8 (H, W, 3).
        positions: positions of the N images among all given images, including unreadable images.
        unreadable: paths of unreadable images.
    """

    paths: list[str]
    names: list[str]
    pixels: list[Pixels]
    positions: list[int]
    unreadable: list[str]


@dataclass(frozen=True)
class ArrayDataset(ImageDataset):
    """Dataset of images in memory.

    Attributes:
        pixels: uint8 (H, W, 3) each, one per entry.
    """

    pixels: tuple[Pixels, ...] = ()

    def read(self, index: int) -> Pixels:
        """Return image ``index``, uint8 (H, W, 3)."""
        return self.pixels[index]

    def select(self, index: Sequence[int]) -> "ArrayDataset":
        """Return the images ``index``, in this order."""
        return replace(self, entries=tuple(self.entries[i] for i in index), pixels=tuple(self.pixels[i] for i in index))

    def fingerprint(self, cache: Path | None = None) -> str:
        """Return the SHA-256 of the pixels."""
        return images_hash(self.pixels)


def read_images(images: ImageInput, size: int | None = None, on_note: OnNote = no_note) -> ReadImages:
    """Read images and folders of images. Unreadable images are skipped and reported.

    Args:
        images: paths or arrays.
        size: largest crop that will be made of the images; larger images are stored halved to save memory.
        on_note: called with a sentence for each unreadable image.

    Raises:
        InputError: a path does not exist, no image is readable, or an array is not an image.
    """
    arrays = _as_arrays(images)
    if arrays is not None:
        index = range(len(arrays))
        return ReadImages([str(i) for i in index], [str(i) for i in index], arrays, list(index), [])
    found = ReadImages([], [], [], [], [])
    for position, (path, name) in enumerate(find_images(_as_paths(images), on_note)):
        try:
            pixels = read_image(path)
        except UnreadableImage as error:
            found.unreadable.append(str(path))
            on_note(str(error))
            continue
        found.pixels.append(halved(pixels, size) if size else pixels)
        found.paths.append(str(path))
        found.names.append(name)
        found.positions.append(position)
    if not found.paths:
        raise InputError(f"No image in {_listed(images)} is readable.")
    return found


def read_one(image: ImageInput) -> tuple[str, str, Pixels]:
    """Read one image and return its path, its name and its pixels uint8 (H, W, 3).

    Raises:
        InputError: more than one image, or the image is not readable.
    """
    arrays = _as_arrays(image)
    if arrays is None:
        paths = _as_paths(image)
        if len(paths) == 1:
            refuse_archive(paths[0])
            return str(paths[0]), clean_name(paths[0].name), read_image(paths[0])
    elif len(arrays) == 1:
        return "0", "0", arrays[0]
    raise InputError("Give one image, not several.")


def open_images(images: ImageInput, split: str | None = None, on_note: OnNote = no_note) -> ImageDataset:
    """Open images that are read when they are needed: a dataset, files and folders of images, or arrays.

    Args:
        images: one folder, one tar or one folder of tars, as ``open_dataset`` takes; any images and folders; or arrays.
        split: sub-folder of a dataset; None selects all images.
        on_note: called with a sentence about image files in formats that are not read.

    Raises:
        InputError: a path does not exist, no image was found, or ``split`` was given for several paths or arrays.
    """
    arrays = _as_arrays(images)
    if arrays is None:
        paths = _as_paths(images)
        if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix.lower() == ".tar"):
            return open_dataset(paths[0], split, on_note)
        found = find_images(paths, on_note)
    if split is not None:
        raise InputError("`split` selects a part of one dataset. Give one folder or one tar.")
    if arrays is not None:
        entries = tuple(Entry(str(i), None, "", i, one.nbytes) for i, one in enumerate(arrays))
        return ArrayDataset(Path("arrays"), entries, tuple(arrays))
    return ImageDataset(Path(), tuple(Entry(name, None, str(path), 0, path.stat().st_size) for path, name in found))


def load_crops(run: Run, images: ImageDataset, size: int, stage: str) -> CroppedImages:
    """Read and centre-crop all images of a dataset. Unreadable images are skipped and reported.

    Args:
        run: callbacks for progress and for unreadable images.
        images: data set.
        size: height and width of the crops in pixels.
        stage: name of the stage for ``on_progress``.

    Raises:
        InputError: no image is readable.
    """
    cropped = load_cropped(images, size, partial(run.on_progress, stage))
    for key, reason in cropped.skipped:
        run.on_note(f"{key} cannot be read as an image: {reason}.")
    return cropped


def data_name(images: Any) -> str:
    """Return the text for the data in ``results.json``: the paths, or ``arrays``."""
    return "arrays" if _as_arrays(images) is not None else _listed(images)


def _listed(images: Any) -> str:
    return ", ".join(str(path) for path in _as_paths(images))


def _as_paths(images: Any) -> list[Path]:
    if isinstance(images, str | Path):
        return [Path(images)]
    try:
        return [Path(path) for path in images]
    except TypeError:
        raise InputError(f"Images are paths or uint8 arrays (H, W, 3), not {type(images).__name__}.") from None


def _as_arrays(images: Any) -> list[Pixels] | None:
    """Return the arrays of ``images``; None for paths."""
    if isinstance(images, np.ndarray):
        images = [images] if images.ndim == 3 else list(images)
    elif isinstance(images, str | Path) or not isinstance(images, Sequence):
        return None
    if not any(isinstance(image, np.ndarray) for image in images):
        return None
    check_images(images)
    return list(images)

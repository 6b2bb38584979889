"""The images that a person names: found, read, and those that cannot be read named."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from rcdm_cli.analyses.step_cache import StepCache
    from rcdm_cli.bundle.bundle import Bundle
    from rcdm_cli.data.dataset import ImageDataset
    from rcdm_cli.encoders.pairs import Pair


@dataclass(frozen=True)
class ReadImages:
    """What became of the images that were named.

    Attributes:
        paths: of the images that were read, in the order of ``find_images``.
        pixels: uint8 (H, W, 3) of each.
        unreadable: files that are no images or are damaged.
    """

    paths: list[Path]
    pixels: list["NDArray[np.uint8]"]
    unreadable: list[Path]

    def raise_unreadable(self) -> None:
        """End the command as wrong input if an image was skipped; call it after the result is out.

        Raises:
            InputError: says how many of how many.
        """
        raise_skipped(len(self.unreadable), len(self.unreadable) + len(self.paths), "images")


def raise_skipped(skipped: int, total: int, what: str) -> None:
    """End the command as wrong input if anything was skipped; call it after the result is out.

    Raises:
        InputError: says how many of how many.
    """
    if skipped:
        raise InputError(f"{skipped} of {total} {what} could not be read and were skipped.")


def read_images(out: Output, images: list[Path], size: int | None = None) -> ReadImages:
    """Read images and folders of images; each one that cannot be read is named in a warning and skipped.

    Args:
        out: where warnings go.
        images: files and folders.
        size: keep no more of the pixels than centre crops of this size need, so that many images fit in memory.

    Raises:
        InputError: a path does not exist, there is no image, or none can be read.
    """
    from rcdm_cli.data.crop import halved
    from rcdm_cli.data.find import find_images
    from rcdm_cli.data.image_file import UnreadableImage, read_image

    read = ReadImages([], [], [])
    for path in find_images(images):
        try:
            pixels = read_image(path)
            read.pixels.append(halved(pixels, size) if size else pixels)
            read.paths.append(path)
        except UnreadableImage as error:
            read.unreadable.append(path)
            out.warn(str(error))
    if not read.paths:
        raise InputError("None of the images could be read.")
    return read


@dataclass(frozen=True)
class Known:
    """Representations that a person named, by images or by a file of `rcdm embed`.

    Attributes:
        h: by pair, float32 (N, D).
        paths: of the N images; inside the file, where there is one.
        pixels: uint8 (H, W, 3) of each; None where only its representation is known.
        places: of the N among all that were found, which count those that cannot be read.
        unreadable: files that are no images or are damaged.
    """

    h: dict["Pair", "Tensor"]
    paths: list[str]
    pixels: list["NDArray[np.uint8] | None"]
    places: list[int]
    unreadable: list[Path]

    @property
    def found(self) -> int:
        """Of all that were found, readable or not."""
        return len(self.places) + len(self.unreadable)


def named_representations(
    out: Output, given: list[Path], bundle: "Bundle", pairs: list["Pair"], cache: "StepCache", batch: int
) -> Known:
    """The representations of images and folders of images, or those in one file that ``rcdm embed`` wrote.

    Raises:
        InputError: as ``read_images``; or the file's representations are those of other encoders.
    """
    from rcdm_cli.analyses.embed import bundle_encoders
    from rcdm_cli.analyses.step_cache import cached_representations
    from rcdm_cli.cli._encoders import Asked, representations
    from rcdm_cli.data.find import find_images
    from rcdm_cli.encoders.embeddings import is_embeddings

    if len(given) == 1 and is_embeddings(given[0]):
        asked = Asked(bundle_encoders(bundle, pairs), pairs, bundle.device, {})
        stored = representations(out, f"Representations of {given[0]}", given[0], None, asked, batch, cache)
        count = len(stored.paths)
        h = {pair: stored.representations[pair] for pair in pairs}
        return Known(h, list(stored.paths), [None] * count, list(range(count)), [])
    manifest = bundle.manifest
    networks = [manifest.denoiser.size, *(one.spec.preprocessing.size for one in manifest.encoders.values())]
    read = read_images(out, given, max(networks))
    listed = {path: place for place, path in enumerate(find_images(given))}
    h = cached_representations(bundle, cache, read.pixels, pairs, batch)
    return Known(
        h, [str(path) for path in read.paths], [*read.pixels], [listed[p] for p in read.paths], read.unreadable
    )


def image_dataset(paths: list[Path], split: str | None = None) -> "ImageDataset":
    """Images that are read when they are needed: those of a data set, or files and folders of images.

    Args:
        paths: one folder, one tar or one folder of tars, as ``open_images`` takes; or any images and folders.
        split: of the data set.

    Raises:
        InputError: a path does not exist, there is no image, or a split was asked of several paths.
    """
    from rcdm_cli.data.dataset import Entry, ImageDataset, open_dataset
    from rcdm_cli.data.find import find_images

    if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix.lower() == ".tar"):
        return open_dataset(paths[0], split)
    files = find_images(paths)
    if split is not None:
        raise InputError("--split chooses a part of one data set; give one folder or one tar.")
    entries = tuple(Entry(str(file), None, str(file), 0, file.stat().st_size) for file in files)
    return ImageDataset(Path(), entries)

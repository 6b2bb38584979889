"""The photos that a person names: found, read, and those that cannot be read named."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_cli.cli._output import Output
from rcdm_cli.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rcdm_cli.images.source import PhotoSource


@dataclass(frozen=True)
class PhotosRead:
    """What became of the photos that were named.

    Attributes:
        paths: of the photos that were read, in the order of ``find_photos``.
        pixels: uint8 (H, W, 3) of each.
        unreadable: files that are no photos or are damaged.
    """

    paths: list[Path]
    pixels: list["NDArray[np.uint8]"]
    unreadable: list[Path]

    def raise_unreadable(self) -> None:
        """End the command as wrong input if a photo was skipped; call it after the result is out.

        Raises:
            InputError: says how many of how many.
        """
        if self.unreadable:
            total = len(self.unreadable) + len(self.paths)
            raise InputError(f"{len(self.unreadable)} of {total} photos could not be read and were skipped.")


def read_photos(out: Output, photos: list[Path]) -> PhotosRead:
    """Read photos and folders of photos; each one that cannot be read is named in a warning and skipped.

    Raises:
        InputError: a path does not exist, there is no photo, or none can be read.
    """
    from rcdm_cli.images.find import find_photos
    from rcdm_cli.images.read import UnreadablePhoto, read_photo

    read = PhotosRead([], [], [])
    for path in find_photos(photos):
        try:
            read.pixels.append(read_photo(path))
            read.paths.append(path)
        except UnreadablePhoto as error:
            read.unreadable.append(path)
            out.warn(str(error))
    if not read.paths:
        raise InputError("None of the photos could be read.")
    return read


def photo_source(paths: list[Path], split: str | None = None) -> "PhotoSource":
    """Photos that are read when they are needed: those of a data set, or files and folders of photos.

    Args:
        paths: one folder, one tar or one folder of tars, as ``open_photos`` takes; or any photos and folders.
        split: of the data set.

    Raises:
        InputError: a path does not exist, there is no photo, or a split was asked of several paths.
    """
    from rcdm_cli.images.find import find_photos
    from rcdm_cli.images.source import Entry, PhotoSource, open_photos

    if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix.lower() == ".tar"):
        return open_photos(paths[0], split)
    if split is not None:
        raise InputError("--split chooses a part of one data set; give one folder or one tar.")
    files = find_photos(paths)
    entries = tuple(Entry(str(file), None, str(file), 0, file.stat().st_size) for file in files)
    return PhotoSource(Path(), entries)

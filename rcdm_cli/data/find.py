"""Search for image files: by suffix in folders, any suffix for files given by name."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from rcdm_cli.core.errors import InputError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the image files of ``paths``, in the given order and without duplicates.

    A folder contributes all images in the folder and its sub-folders, sorted by path, without hidden files and
    folders. A file is accepted with any suffix; its content is checked when the file is read.

    Raises:
        InputError: a path does not exist, or no image was found.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(walk(path, SUFFIXES)))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(f"{path} does not exist. Give images, or folders of images.")
    if not found:
        where = ", ".join(str(path) for path in paths) or "an empty list of paths"
        raise InputError(f"No image was found in {where}. Images have one of these suffixes: {suffix_list()}.")
    return list(found)


def suffix_list() -> str:
    """Return the suffixes of image files for messages: ``.avif .bmp .gif ...``."""
    return " ".join(sorted(SUFFIXES))


def walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield the files in ``folder`` and its sub-folders with one of ``suffixes``, sorted by path.

    Links to folders are followed. Each real folder is visited once, so that cyclic links end.

    Args:
        folder: folder to search.
        suffixes: suffixes in lower case, with the dot.

    Raises:
        InputError: a folder cannot be listed.
    """
    return _walk(folder, suffixes, set())


def _walk(folder: Path, suffixes: Collection[str], visited: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be listed: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, suffixes, visited)
        elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
            yield folder / entry.name

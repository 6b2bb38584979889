"""Which files are images: by suffix inside a folder, by the person's word for a file given by name."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from rcdm_cli.core.errors import InputError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images that ``paths`` name, in the order given and each once.

    A folder stands for every image in it and below it, sorted by path; hidden files and folders are left out.
    A file is taken whatever its suffix: a wrong one is told apart when it is read.

    Raises:
        InputError: a path does not exist, or no image was found at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(walk(path, SUFFIXES)))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(f"{path} does not exist; give images, or folders that hold images.")
    if not found:
        where = ", ".join(str(path) for path in paths) or "an empty list of paths"
        raise InputError(f"No image was found in {where}; files are taken by these suffixes: {suffix_list()}.")
    return list(found)


def suffix_list() -> str:
    """The known suffixes for a message: ``.avif .bmp .gif ...``."""
    return " ".join(sorted(SUFFIXES))


def walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files in and below ``folder`` with one of ``suffixes`` (lower case, with the dot), sorted by path.

    Links to folders are followed, each real folder once, so that a link to a parent ends.

    Raises:
        InputError: a folder cannot be listed.
    """
    return _walk(folder, suffixes, set())


def _walk(folder: Path, suffixes: Collection[str], seen: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be listed: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, suffixes, seen)
        elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
            yield folder / entry.name

"""Search for image files: by suffix in folders, any suffix for files given by name."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.seeds import distinct_names
from rcdm_cli.data.image_file import FORMATS

_JPEG_2000, _HEIF = frozenset({".jp2", ".j2k", ".jpf", ".jpx"}), frozenset({".heic", ".heif", ".hif"})

SUFFIXES = (
    frozenset(
        {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
        | {".ppm", ".pgm", ".pbm", ".pnm"}
    )
    | (_JPEG_2000 if "JPEG2000" in FORMATS else frozenset())
    | (_HEIF if "HEIF" in FORMATS else frozenset())
)
"""Suffixes of the image files that are read."""

OTHER_IMAGES = (
    _JPEG_2000
    | _HEIF
    | frozenset({".jxl", ".jxr", ".psd", ".exr", ".hdr", ".tga", ".dcm"})
    | frozenset({".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"})
) - SUFFIXES
"""Suffixes of image files that are not read. Files with these suffixes are reported, other files are ignored."""

_UNTAR = "mkdir {folder} && tar -xf {path} -C {folder}"
_ARCHIVES = {
    b"PK\x03\x04": ("zip archive", "unzip {path} -d {folder}"),
    b"\x1f\x8b": ("compressed tar", _UNTAR),
    b"BZh": ("compressed tar", _UNTAR),
    b"\xfd7zXZ": ("compressed tar", _UNTAR),
    b"\x28\xb5\x2f\xfd": ("compressed tar", _UNTAR),
    b"7z\xbc\xaf": ("7z archive", "7z x {path} -o{folder}"),
    b"Rar!": ("rar archive", "unrar x {path} {folder}/"),
}
"""Kind of an archive and the command that unpacks the archive, by the first bytes of the file."""


class FoundImage(NamedTuple):
    """An image file and its name.

    Attributes:
        path: path of the file.
        name: path relative to the folder that was given, with ``/`` as separator; the file name of a file that was
            given itself. A repeated name ends with ``#2``, ``#3`` and so on. The noise of samples depends on the name.
    """

    path: Path
    name: str


def find_images(paths: Sequence[Path], on_note: Callable[[str], None] = lambda note: None) -> list[FoundImage]:
    """Return the image files of ``paths``, in the given order and without duplicates.

    A folder contributes all images in the folder and its sub-folders, sorted by path, without hidden files and
    folders. A file is accepted with any suffix; its content is checked when the file is read.

    Args:
        paths: images and folders of images.
        on_note: called with a sentence about image files in formats that are not read.

    Raises:
        InputError: a path does not exist or is an archive, or no image was found.
    """
    found: dict[Path, str] = {}
    others: list[str] = []
    for path in paths:
        if path.is_dir():
            for file in walk(path, SUFFIXES | OTHER_IMAGES):
                name = clean_name(file.relative_to(path).as_posix())
                if file.suffix.lower() in SUFFIXES:
                    found.setdefault(file, name)
                else:
                    others.append(name)
        elif path.exists():
            refuse_archive(path)
            if path.suffix.lower() == ".tar":
                raise InputError(f"{path} is a tar. Unpack the tar (`tar -xf {path}`) and give the folder.")
            found.setdefault(path, clean_name(path.name))
        else:
            raise InputError(f"{path} does not exist. Give images, or folders of images.")
    if not found:
        where = ", ".join(str(path) for path in paths) or "an empty list of paths"
        raise InputError(f"No image was found in {where}. {supported_suffixes(others)}")
    if others:
        on_note(ignored_images(others))
    return [FoundImage(*each) for each in zip(found, distinct_names(list(found.values())), strict=True)]


def supported_suffixes(others: Sequence[str] = ()) -> str:
    """Return the sentence about the suffixes of images, and about ``others``, names of image files in other formats."""
    sentence = f"Images have one of these suffixes: {' '.join(sorted(SUFFIXES))}."
    return f"{sentence} {ignored_images(others)}" if others else sentence


def ignored_images(names: Sequence[str]) -> str:
    """Return a sentence with number, suffixes and a remedy for image files whose format is not read."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
    remedy = "Convert them to PNG or JPEG."
    if suffixes.keys() & _HEIF:
        remedy = "HEIC files are read after `pip install 'rcdm[heif]'`; convert others to PNG or JPEG."
    return f"Image files in other formats are ignored ({counts}), the first is {names[0]}. {remedy}"


def refuse_archive(path: Path) -> None:
    """Check that a file is not a compressed archive, whose images cannot be read in place.

    Raises:
        InputError: names the archive and the command that unpacks the archive.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError:
        return  # The reader of the file describes the error.
    for magic, (kind, command) in _ARCHIVES.items():
        if start.startswith(magic):
            unpack = command.format(path=path, folder=path.name.partition(".")[0])
            raise InputError(
                f"{path} is a {kind}, in which images cannot be read in place. Unpack the archive (`{unpack}`) and "
                "give the folder, or give an uncompressed tar."
            )


def clean_name(path: str) -> str:
    """Return a relative path in valid Unicode, with ``/`` as separator and without ``.`` and ``..``."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "/".join(part for part in text.split("/") if part not in ("", ".", ".."))


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

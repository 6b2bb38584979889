"""The images in a tar: where each one's bytes lie, so that they are read in place and nothing is unpacked."""

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.find import SUFFIXES

_BLOCK = 512
_LONGEST_LABEL = 1024


class Member(NamedTuple):
    """An image in a tar: its bytes are ``size`` bytes from ``offset`` in the tar's file."""

    path: str
    label: str | None
    offset: int
    size: int


def index_tar(tar: Path) -> list[Member]:
    """The images of an uncompressed tar, by known suffix, in the tar's order.

    Only regular files count; links, devices and hidden files are left out. A member's path is cleaned of ``.``,
    ``..`` and a leading ``/``: it is a name to show, never a place to write to. Where a member ``<key>.cls``
    stands beside ``<key>.jpg`` (WebDataset), its text is the image's label; else the label is None.

    Raises:
        InputError: not an uncompressed tar, or not a whole one.
    """
    images: list[Member] = []
    labels: dict[str, str] = {}
    try:
        with tar.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else a million headers stay in memory
                path = clean(member.name)
                stem, suffix = _sample(path)
                if not member.isreg() or member.issparse() or os.path.basename(path).startswith("."):
                    continue
                if os.path.splitext(path)[1].lower() in SUFFIXES:
                    images.append(Member(path, None, member.offset_data, member.size))
                elif suffix == "cls":
                    labels[stem] = _read_label(tar, path, member.offset_data, member.size)
            file.seek(archive.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise InputError(f"{tar} is damaged or not written whole: it breaks off after {archive.offset} bytes.")
    except tarfile.TarError as error:
        raise InputError(
            f"{tar} is not a whole, uncompressed tar ({error}); decompress it if it is a .tar.gz."
        ) from None
    except OSError as error:
        raise InputError(f"{tar} cannot be read: {error.strerror or error}.") from error
    return [image._replace(label=labels.get(_sample(image.path)[0])) for image in images]


def clean(path: str) -> str:
    """A relative path in valid Unicode without ``.`` and ``..``, whatever an archive or a disk calls the file."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "/".join(part for part in text.split("/") if part not in ("", ".", ".."))


def _sample(path: str) -> tuple[str, str]:
    """WebDataset's key and suffix: the file's name is cut at its first dot."""
    folder, name = os.path.split(path)
    stem, _, suffix = name.partition(".")
    return f"{folder}/{stem}", suffix


def _read_label(tar: Path, path: str, offset: int, size: int) -> str:
    if size > _LONGEST_LABEL:
        raise InputError(f"{path} in {tar} has {size} bytes; a label has at most {_LONGEST_LABEL}.")
    with tar.open("rb") as file:
        file.seek(offset)
        return file.read(size).decode("utf-8", "replace").strip()

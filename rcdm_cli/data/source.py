"""A set of images, wherever they lie: a folder, a tar, or a folder of tar shards."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.find import SUFFIXES, suffix_list, walk
from rcdm_cli.data.image_file import UnreadableImage, read_image
from rcdm_cli.data.shards import clean, index_tar


class Entry(NamedTuple):
    """One image: its key, its label, and where its bytes lie."""

    key: str
    label: str | None
    file: str
    offset: int
    size: int


@dataclass(frozen=True)
class ImageDataset:
    """Images that are listed once and read when asked for; safe to read from several threads and processes."""

    root: Path
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Each image's path inside the source, with ``/`` between its parts and without ``..``."""
        return tuple(entry.key for entry in self.entries)

    @cached_property
    def labels(self) -> tuple[str | None, ...]:
        """Each image's class: the folder it lies in, or its ``.cls`` file; None where it has neither."""
        return tuple(entry.label for entry in self.entries)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Image ``index`` as uint8 RGB (H, W, 3).

        Raises:
            UnreadableImage: names the source and the image's key.
        """
        entry = self.entries[index]
        name = f"{self.root} ({entry.key})"
        try:
            with open(entry.file, "rb") as file:
                file.seek(entry.offset)
                content = file.read(entry.size)
        except OSError as error:
            raise UnreadableImage(name, str(error.strerror)) from error
        if len(content) < entry.size:
            raise UnreadableImage(name, "its file has become shorter since it was listed")
        return read_image(io.BytesIO(content), name)

    def spread(self, count: int) -> "ImageDataset":
        """At most ``count`` of the images, spread evenly over the listing, the first and the last among them."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return ImageDataset(self.root, tuple(self.entries[index] for index in chosen))

    def fingerprint(self) -> str:
        """SHA-256 over every image's key and size in bytes: equal as long as the listing is."""
        digest = hashlib.sha256()
        for entry in self.entries:
            # A file name need not be text.
            digest.update(f"{entry.key}\0{entry.size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def open_dataset(source: Path, split: str | None = None) -> ImageDataset:
    """List the images of ``source``, sorted by key, without reading them.

    Args:
        source: a folder of images, with or without class sub-folders; an uncompressed ``.tar``; or a folder of
            ``.tar`` shards. Members of a tar are read in place.
        split: a sub-folder such as ``train`` at the first level or, below a single top folder, at the second. Without
            it, all images are listed.

    An image's label is the name of the folder it lies in. It is None directly in the root, which is the split's
    folder, else the source; a tar's single top folder counts as its root. A ``.cls`` file goes before the folder.

    Raises:
        InputError: no such source, no image in it, a damaged tar, images beside shards, or no such split.
    """
    if source.is_dir():
        places, in_tars = _list_folder(source)
    elif source.is_file():
        if source.suffix.lower() in SUFFIXES:
            raise InputError(f"{source} is one image. Give the folder that it lies in.")
        places = [_Place(m.path, Entry(m.path, m.label, str(source), m.offset, m.size)) for m in index_tar(source)]
        in_tars = True
    else:
        raise InputError(f"{source} does not exist; give a folder of images, a .tar, or a folder of .tar shards.")
    if not places:
        raise InputError(f"{source} holds no image; files are taken by these suffixes: {suffix_list()}.")
    prefix = _split_folder(source, places, split) if split is not None else _top_folder(places) if in_tars else ""
    chosen = [_labelled(place, prefix) for place in places if place.path.startswith(prefix)]
    return ImageDataset(source, tuple(sorted(chosen, key=lambda entry: entry.key)))


class _Place(NamedTuple):
    """Where an image lies among split and class folders, which a shard's own name is no part of."""

    path: str
    entry: Entry


def _list_folder(folder: Path) -> tuple[list[_Place], bool]:
    images: list[_Place] = []
    shards: list[_Place] = []
    for file in walk(folder, SUFFIXES | {".tar"}):
        inside = clean(file.relative_to(folder).as_posix())
        if file.suffix.lower() == ".tar":
            above = inside.rpartition("/")[0]
            for m in index_tar(file):
                entry = Entry(f"{inside}/{m.path}", m.label, str(file), m.offset, m.size)
                shards.append(_Place(f"{above}/{m.path}".lstrip("/"), entry))
        else:
            images.append(_Place(inside, Entry(inside, None, str(file), 0, file.stat().st_size)))
    if images and shards:
        raise InputError(
            f"{folder} holds both images ({images[0].path}) and tar shards ({shards[0].entry.file}); give one of them."
        )
    return images or shards, bool(shards)


def _top_folder(places: Sequence[_Place]) -> str:
    """``name/`` if everything lies in one top folder, else the empty string."""
    first, slash, _ = places[0].path.partition("/")
    top = first + slash
    return top if slash and all(place.path.startswith(top) for place in places) else ""


def _split_folder(source: Path, places: Sequence[_Place], split: str) -> str:
    top = _top_folder(places)
    for above in ("", top):
        if any(place.path.startswith(f"{above}{split}/") for place in places):
            return f"{above}{split}/"
    below = (place.path[len(top) :].partition("/") for place in places)
    known = ", ".join(sorted({name for name, slash, _ in below if slash})) or "none"
    raise InputError(f"{source} has no split {split!r}; its splits are: {known}.")


def _labelled(place: _Place, prefix: str) -> Entry:
    folder, slash, _ = place.path[len(prefix) :].rpartition("/")
    label = folder.rpartition("/")[2] if slash else None
    return place.entry._replace(label=place.entry.label or label)

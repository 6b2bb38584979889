"""Image datasets: a folder of images, an uncompressed tar, or a folder of tar shards."""

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.content import Entry, fingerprint
from rcdm_cli.data.find import (
    OTHER_IMAGES,
    SUFFIXES,
    clean_name,
    ignored_images,
    refuse_archive,
    supported_suffixes,
    walk,
)
from rcdm_cli.data.image_file import Pixels, UnreadableImage, read_image

_TAR_BLOCK = 512
_LONGEST_LABEL = 1024
_LONGEST_HEADER = 2**24
"""Maximum size in bytes of one header of a tar, such as a long name."""

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of top folders that are splits, not classes."""


@dataclass(frozen=True)
class ImageDataset:
    """List of images that are read on request. Reading is safe from several threads and processes."""

    root: Path
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Path of each image inside the dataset, with ``/`` as separator and without ``..``."""
        return tuple(entry.key for entry in self.entries)

    @cached_property
    def labels(self) -> tuple[str | None, ...]:
        """Class of each image: the text of its ``.cls`` file, else the first-level folder, else None."""
        return tuple(entry.label for entry in self.entries)

    def read(self, index: int) -> Pixels:
        """Read image ``index`` as uint8 RGB (H, W, 3).

        Raises:
            UnreadableImage: names the dataset and the key of the image.
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
            raise UnreadableImage(name, "its file has become shorter since the dataset was listed")
        return read_image(io.BytesIO(content), name)

    def select(self, index: Sequence[int]) -> "ImageDataset":
        """Return the images ``index``, in this order."""
        return ImageDataset(self.root, tuple(self.entries[i] for i in index))

    def spread(self, count: int) -> "ImageDataset":
        """Return at most ``count`` images, spread evenly over the dataset, including the first and the last."""
        return self.select(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int).tolist())

    def fingerprint(self, cache: Path | None = None) -> str:
        """Return a hash of the keys and contents of all images, see ``content.fingerprint``.

        The first call reads all images.
        """
        if "_fingerprint" not in self.__dict__:
            self.__dict__["_fingerprint"] = fingerprint(self.entries, cache)
        return str(self.__dict__["_fingerprint"])


def open_dataset(
    source: Path, split: str | None = None, on_note: Callable[[str], None] = lambda note: None
) -> ImageDataset:
    """List the images of ``source``, sorted by key, without reading them.

    The label of an image is the text of its ``.cls`` file, else the first-level folder, as in torchvision's
    ImageFolder: ``cat`` for ``cat/2021/x.png``. Folders are counted below the split, else below the single top folder
    of a tar, else below the source. If all top folders are splits (``SPLITS``), each image's split is skipped. Images
    directly in the root have no label.

    Args:
        source: folder of images, with or without class folders; an uncompressed ``.tar``; or a folder of ``.tar``
            shards. Members of a tar are read in place.
        split: folder such as ``train`` at the first level, or at the second level below a single top folder. None
            lists all images.
        on_note: called with a sentence about image files in formats that are not read.

    Raises:
        InputError: the source does not exist, contains no image or a damaged tar, contains images next to shards, is a
            compressed archive, or has no such split.
    """
    others: list[str] = []
    if source.is_dir():
        listed, in_tars = _list_folder(source, others)
    elif source.is_file():
        if source.suffix.lower() in SUFFIXES:
            raise InputError(f"{source} is a single image. Give the folder of the image.")
        listed = [_Listed(entry.key, entry) for entry in index_tar(source, others)]
        in_tars = True
    else:
        raise InputError(f"{source} does not exist. Give a folder of images, a .tar, or a folder of .tar shards.")
    if not listed:
        raise InputError(f"{source} contains no image. {supported_suffixes(others)}")
    if others:
        on_note(ignored_images(others))
    root = _split_folder(source, listed, split) if split is not None else _top_folder(listed) if in_tars else ""
    inside = [image for image in listed if image.path.startswith(root)]
    folders = {folder for folder, slash, _ in (image.path[len(root) :].partition("/") for image in inside) if slash}
    skip_split = split is None and bool(folders) and folders <= SPLITS
    entries = [_with_label(image, root, skip_split) for image in inside]
    return ImageDataset(source, tuple(sorted(entries, key=lambda entry: entry.key)))


class _Listed(NamedTuple):
    """An image and its path among split and class folders, without the name of a shard."""

    path: str
    entry: Entry


def _list_folder(folder: Path, others: list[str]) -> tuple[list[_Listed], bool]:
    """List the images of a folder; add the names of images in other formats to ``others``."""
    images: list[_Listed] = []
    members: list[_Listed] = []
    for file in walk(folder, SUFFIXES | OTHER_IMAGES | {".tar"}):
        inside = clean_name(file.relative_to(folder).as_posix())
        if file.suffix.lower() == ".tar":
            parent = inside.rpartition("/")[0]
            for entry in index_tar(file, others):
                path = f"{parent}/{entry.key}".lstrip("/")
                members.append(_Listed(path, entry._replace(key=f"{inside}/{entry.key}")))
        elif file.suffix.lower() in OTHER_IMAGES:
            others.append(inside)
        else:
            images.append(_Listed(inside, Entry(inside, None, str(file), 0, file.stat().st_size)))
    if images and members:
        raise InputError(
            f"{folder} contains images ({images[0].path}) and tar shards ({members[0].entry.file}). Give a folder of"
            " images or a folder of shards."
        )
    return images or members, bool(members)


def _top_folder(listed: Sequence[_Listed]) -> str:
    """Return ``name/`` if all images are in one top folder, else an empty string."""
    first, slash, _ = listed[0].path.partition("/")
    top = first + slash
    return top if slash and all(image.path.startswith(top) for image in listed) else ""


def _split_folder(source: Path, listed: Sequence[_Listed], split: str) -> str:
    top = _top_folder(listed)
    for parent in ("", top):
        if any(image.path.startswith(f"{parent}{split}/") for image in listed):
            return f"{parent}{split}/"
    below = (image.path[len(top) :].partition("/") for image in listed)
    splits = ", ".join(sorted({name for name, slash, _ in below if slash})) or "none"
    raise InputError(f"{source} has no split {split!r}; its splits are: {splits}.")


def _with_label(image: _Listed, root: str, skip_split: bool) -> Entry:
    folders = image.path[len(root) :].split("/")[skip_split:-1]
    return image.entry._replace(label=image.entry.label or (folders[0] if folders else None))


class _TarFile(io.FileIO):
    """File whose reads are bounded, since tarfile allocates the sizes that headers claim."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most ``size`` bytes."""
        if size is None or not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header has {size} bytes")
        return super().read(size) or b""


def index_tar(tar: Path, others: list[str] | None = None) -> list[Entry]:
    """List the images of an uncompressed tar by suffix, in the tar's order, without unpacking.

    Links, devices and hidden files are left out. Keys are paths without ``.``, ``..`` and a leading ``/``. The label of
    ``<name>.jpg`` is the text of the member ``<name>.cls`` (WebDataset), else None. A member such as ``<name>.seg.png``
    is another field of the sample ``<name>``, not an image, if the tar has a member ``<name>.jpg``, ``<name>.cls`` or
    with another single suffix.

    Args:
        tar: file.
        others: names of images in other formats are added to this list.

    Raises:
        InputError: the file is not a complete, uncompressed tar.
    """
    refuse_archive(tar)
    images: list[Entry] = []
    labels: dict[str, str] = {}
    samples: set[str] = set()
    try:
        size = tar.stat().st_size
        with _TarFile(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            before = -1
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would store all headers
                # Negative and huge sizes of damaged headers would lead backwards or past the end.
                if archive.offset <= before or member.size < 0 or member.offset_data + member.size > size:
                    raise InputError(f"{tar} is damaged or incomplete: it breaks off after {member.offset} bytes.")
                before = archive.offset
                path = clean_name(member.name)
                name, suffix = _webdataset_name(path)
                if not member.isreg() or member.issparse() or os.path.basename(path).startswith("."):
                    continue
                if suffix and "." not in suffix:
                    samples.add(name)
                if os.path.splitext(path)[1].lower() in OTHER_IMAGES and others is not None:
                    others.append(path)
                elif os.path.splitext(path)[1].lower() in SUFFIXES:
                    images.append(Entry(path, None, str(tar), member.offset_data, member.size))
                elif suffix == "cls":
                    labels[name] = _read_label(tar, path, member.offset_data, member.size)
            file.seek(archive.offset)
            if file.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
                raise InputError(f"{tar} is damaged or incomplete: it breaks off after {archive.offset} bytes.")
    # tarfile raises errors of several types for damaged headers.
    except (tarfile.TarError, ValueError, LookupError, RecursionError, OverflowError, MemoryError) as error:
        raise InputError(f"{tar} is not a complete, uncompressed tar ({error}).") from None
    except OSError as error:
        raise InputError(f"{tar} cannot be read: {error.strerror or error}.") from error
    labelled = []
    for image in images:
        name, suffix = _webdataset_name(image.key)
        if "." not in suffix or name not in samples:
            labelled.append(image._replace(label=labels.get(name)))
    return labelled


def _webdataset_name(path: str) -> tuple[str, str]:
    """Split a path at the first dot of the file name, as WebDataset does."""
    folder, name = os.path.split(path)
    stem, _, suffix = name.partition(".")
    return f"{folder}/{stem}", suffix


def _read_label(tar: Path, path: str, offset: int, size: int) -> str:
    if size > _LONGEST_LABEL:
        raise InputError(f"{path} in {tar} has {size} bytes; a label has at most {_LONGEST_LABEL}.")
    with tar.open("rb") as file:
        file.seek(offset)
        return file.read(size).decode("utf-8", "replace").strip()

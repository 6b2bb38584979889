"""Hashes of image contents, with a cache for files whose size and time stamps are unchanged."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rcdm_cli.core.files import write_text

HASHES = "contents.json"
"""File with the hashes of contents in a cache folder."""

_FRESH_NS = 2 * 10**9
"""Nanoseconds after a change in which a second change may have the same time stamp."""

_BLOCK = 1024


class Entry(NamedTuple):
    """Key, label and storage of one image: ``size`` bytes at ``offset`` in ``file``.

    The noise of samples depends on the key.
    """

    key: str
    label: str | None
    file: str
    offset: int
    size: int


def fingerprint(images: Sequence[Entry], cache: Path | None = None) -> str:
    """Return a hash of the names and contents of ``images``. A copy of the images has the same hash.

    Args:
        images: images in files or in tars.
        cache: folder for the file ``HASHES`` with the hash of each image, and size and time stamps of its file. An
            image is read again only if size or time stamps of its file differ, as in the index of git. None reads all
            images.
    """
    known = _load(cache / HASHES) if cache else {}
    stats: dict[str, list[int]] = {}
    digest, records = hashlib.sha256(), {}
    with ThreadPoolExecutor() as pool:
        # Blocks bound the number of waiting tasks.
        remaining = iter(images)
        while block := list(islice(remaining, _BLOCK)):
            for image in block:
                if image.file not in stats:
                    stats[image.file] = _stat(image.file)
            hashes = pool.map(lambda image: _hash(image, stats[image.file], known), block)
            for image, content in zip(block, hashes, strict=True):
                # File names are not always valid text.
                digest.update(f"{image.key}\0{content}\n".encode(errors="surrogateescape"))
                stat = stats[image.file]
                if content and stat and time.time_ns() - max(stat[1:]) > _FRESH_NS:
                    records[_place(image)] = [*stat, content]
    if cache and any(known.get(place) != record for place, record in records.items()):
        write_text(cache / HASHES, json.dumps({**known, **records}))
    return digest.hexdigest()


def _place(image: Entry) -> str:
    return f"{image.offset}:{image.size}:{os.path.abspath(image.file)}"


def _stat(file: str) -> list[int]:
    """Return size and time stamps of a file; an empty list if the file is not accessible."""
    try:
        stat = os.stat(file)
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _hash(image: Entry, stat: list[int], known: dict[str, list[Any]]) -> str:
    """Return the hash of the bytes of an image; an empty text if the file cannot be read."""
    record = known.get(_place(image))
    if record and stat and record[:-1] == stat:
        return str(record[-1])
    try:
        with open(image.file, "rb") as file:
            file.seek(image.offset)
            return hashlib.blake2b(file.read(image.size), digest_size=16).hexdigest()
    except OSError:
        return ""


def _load(file: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {place: record for place, record in known.items() if _is_record(record)}


def _is_record(record: Any) -> bool:
    return isinstance(record, list) and len(record) == 4 and isinstance(record[-1], str)

"""A file from the network: whole and right under its name, or not there.

Until then it grows beside it as ``NAME.part``, and the next call goes on where it broke off. Not pooch, which does not
resume; not huggingface_hub's ``http_get``, which is private and takes any answer to a range request for the right one.
"""

import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import sha256 as hash_of
from rcdm_cli.core.files import write_json

CHUNK = 1 << 20
_PAUSE = 1.0
_ROOM_TO_SPARE = 64 << 20


@dataclass(frozen=True)
class Downloaded:
    """A file that came whole, with what is known of it for the next time."""

    path: Path
    url: str
    size: int
    sha256: str


class _Broken(Exception):
    """The connection ended or stalled before the end: worth another try."""


def remote_size(url: str, timeout: float = 30.0) -> int | None:
    """Size in bytes that the server names for ``url``; None where it names none.

    Raises:
        RcdmError: there is no answer, or it is an error.
    """
    with _naming(url), _open(urllib.request.Request(url, method="HEAD"), timeout) as response:
        return _length(response)


def already(path: Path, url: str, sha256: str = "") -> Downloaded | None:
    """The file at ``path`` if an earlier ``download`` of ``url`` put it there and its bytes are still the same."""
    try:
        record = json.loads(_record(path).read_text(encoding="utf-8"))
        found = Downloaded(path, record["url"], record["size"], record["sha256"])
        if found.url != url or path.stat().st_size != found.size or hash_of(path) != found.sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.sha256.startswith(sha256) else None


def download(
    url: str,
    path: Path,
    *,
    sha256: str = "",
    check: Callable[[Path], None] = lambda path: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    timeout: float = 30.0,
    attempts: int = 5,
) -> Downloaded:
    """Download ``url`` to ``path``.

    The file's size and SHA-256 are written beside it, as ``NAME.json``, and hold for the next time.

    Args:
        url: http or https.
        path: takes the file once it is whole and right.
        sha256: how its hex SHA-256 begins, where that is known.
        check: raises ``InputError`` where the bytes are not what was meant.
        on_progress: called with (bytes done, bytes), where the server names the size.
        timeout: seconds without a byte after which the connection counts as stalled.
        attempts: that bring less than a megabyte before it gives up.

    Raises:
        InputError: the bytes are wrong: another hash, or ``check`` refuses them. Nothing of them is kept.
        RcdmError: no answer, an error of the server, no room, or the connection broke too often. What came so far is
            kept for the next call.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _naming(url), _alone(path):
        _fetch_whole(url, part, timeout, attempts, on_progress)
        found = hash_of(part)
        if not found.startswith(sha256):
            _forget(part)
            raise InputError(f"{url} gave a file whose SHA-256 begins {found[:16]}, not {sha256}. It was thrown away.")
        try:
            check(part)
        except InputError as error:
            _forget(part)
            reason = str(error).replace(str(part), "it")
            raise InputError(f"What {url} gave is not what was expected, and was thrown away: {reason}") from error
        done = Downloaded(path, url, _size(part), found)
        part.replace(path)
        _forget(part)
        write_json(_record(path), {"url": url, "size": done.size, "sha256": found})
    return done


def _fetch_whole(url: str, part: Path, timeout: float, attempts: int, on_progress: Callable[[int, int], None]) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            return _fetch(url, part, timeout, on_progress)
        except _Broken as broken:
            failures = 1 if _size(part) - before >= CHUNK else failures + 1
            if failures >= attempts:
                raise RcdmError(
                    f"{url} broke off after {_size(part)} bytes ({broken}). The same command goes on from there."
                ) from broken
            time.sleep(_PAUSE)


def _fetch(url: str, part: Path, timeout: float, on_progress: Callable[[int, int], None]) -> None:
    """Go on with ``part`` until the server has nothing more; raises ``_Broken`` where it ends too soon."""
    have, tag = _size(part), _read_tag(part)
    headers = {"Accept-Encoding": "identity"}
    if have and tag:
        # If-Range: from a file that has changed since, the server sends all of it.
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        with _open(urllib.request.Request(url, headers=headers), timeout) as response:
            if response.status == 206 and not _continues(response, have):
                _forget(part)
                raise _Broken("the server sent another part than was asked for")
            length = _length(response)
            if response.status != 206:
                have = 0
            total = None if length is None else have + length
            _make_room(part, length or 0)
            _write_tag(part, response)
            with part.open("ab" if have else "wb") as file:
                _copy(response, file, have, total, on_progress)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it is here
        # The file there has become shorter.
        _forget(part)
        raise _Broken("the file there has changed") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _copy(
    response: Any, file: IO[bytes], have: int, total: int | None, on_progress: Callable[[int, int], None]
) -> None:
    while chunk := response.read1(CHUNK):
        file.write(chunk)
        have += len(chunk)
        if total is not None:
            on_progress(have, total)
    file.flush()
    os.fsync(file.fileno())
    if total is not None and have < total:
        raise _Broken(f"the server promised {total} bytes")


def _open(request: urllib.request.Request, timeout: float) -> Any:
    if urlsplit(request.full_url).scheme not in ("http", "https"):
        raise InputError(f"{request.full_url} is not an http or https address.")
    response = urllib.request.urlopen(request, timeout=timeout)
    if request.full_url.startswith("https:") and not response.url.startswith("https:"):
        response.close()
        raise RcdmError(f"{request.full_url} leads to {response.url}, which is not encrypted. It is not followed.")
    return response


def _length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _continues(response: Any, have: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _make_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed + _ROOM_TO_SPARE > free:
        raise RcdmError(f"{part.parent} has room for {free} bytes, and {needed} more are to come.")


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Say of which address an error of the network is."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise RcdmError(f"{url} answers {error.code} ({error.reason}).") from error
    except urllib.error.URLError as error:
        raise RcdmError(f"{url} cannot be reached ({error.reason}).") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise RcdmError(f"{url} cannot be reached ({error or type(error).__name__}).") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two processes that write the same file would spoil it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise RcdmError(f"{path} is being downloaded by another process. Wait until it is done.") from error


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _write_tag(part: Path, response: Any) -> None:
    """Keep what tells that the file there is still the same: a strong ETag, else its date; without, no resuming."""
    etag = str(response.headers.get("ETag", ""))
    tag = etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))
    _tag(part).write_text(tag, encoding="utf-8")


def _read_tag(part: Path) -> str:
    try:
        return _tag(part).read_text(encoding="utf-8")
    except OSError:
        return ""


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)

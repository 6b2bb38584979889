"""Atomic, checksum-verified and resumable downloads.

The partial file is ``NAME.part``. The next call resumes it. pooch does not resume; huggingface_hub's ``http_get`` is
private and does not check the answer to a range request.
"""

import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import remove_temporary, write_json
from rcdm_cli.core.files import sha256 as hash_of
from rcdm_cli.core.outputs import output_file

CHUNK = 1 << 20
_RETRY_SECONDS = 1.0
_RESERVED_BYTES = 64 << 20


@dataclass(frozen=True)
class Downloaded:
    """A complete download."""

    path: Path
    url: str
    size: int
    sha256: str


class _ConnectionBroken(Exception):
    """The connection ended or stalled too early; the download may be retried."""


def remote_size(url: str, timeout: float = 30.0) -> int | None:
    """Return the size in bytes that the server reports for ``url``, or None if the server reports no size.

    Raises:
        RcdmError: the server does not answer, or answers with an error.
    """
    with _network_errors(url), _open(urllib.request.Request(url, method="HEAD"), timeout) as response:
        return _length(response)


def find_download(path: Path, url: str, sha256: str = "") -> Downloaded | None:
    """Return the earlier download of ``url`` at ``path``, or None if the file is absent or has changed."""
    try:
        record = json.loads(_record(path).read_text(encoding="utf-8"))
        found = Downloaded(path, record["url"], record["size"], record["sha256"])
        if found.url != url or path.stat().st_size != found.size or hash_of(path) != found.sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not found.sha256.startswith(sha256):
        return None
    # A process can be killed after the download is complete. The folder may be read-only.
    with suppress(InputError), _locked(path):
        _remove_partial(_part(path))
    return found


def download(
    url: str,
    path: Path,
    *,
    sha256: str = "",
    check: Callable[[Path], object] = lambda path: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    timeout: float = 30.0,
    attempts: int = 5,
) -> Downloaded:
    """Download ``url`` to ``path``.

    The file's size and SHA-256 are written to ``NAME.json`` in the same folder, for ``find_download``.

    Args:
        url: http or https address.
        path: path of the file. The file appears when it is complete and verified.
        sha256: first characters of the expected hex SHA-256; empty for no check.
        check: function that raises ``InputError`` if the file has the wrong content.
        on_progress: called with (bytes done, total bytes) if the server reports the size.
        timeout: seconds without data after which the connection counts as stalled.
        attempts: number of consecutive attempts with less than 1 MiB of data before the download fails.

    Raises:
        InputError: the SHA-256 differs, or ``check`` fails. The file is removed.
        RcdmError: no answer, a server error, no disk space, or too many broken connections. The partial file remains
            for the next call.
    """
    part = _part(path)
    with _network_errors(url), _locked(path):
        _fetch_with_retries(url, part, timeout, attempts, on_progress)
        found = hash_of(part)
        if not found.startswith(sha256):
            _remove_partial(part)
            raise InputError(
                f"{url} returned a file whose SHA-256 starts with {found[:16]}, not {sha256}. The file was removed."
            )
        try:
            check(part)
        except InputError as error:
            _remove_partial(part)
            reason = str(error).replace(str(part), "the file")
            raise InputError(f"{url} returned unexpected content, which was removed: {reason}") from error
        done = Downloaded(path, url, _size(part), found)
        part.replace(path)
        _remove_partial(part)
        write_json(_record(path), {"url": url, "size": done.size, "sha256": found})
    return done


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with output_file(path):
        remove_temporary(path.parent, _record(path).name)
        yield


def _fetch_with_retries(
    url: str, part: Path, timeout: float, attempts: int, on_progress: Callable[[int, int], None]
) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            return _fetch(url, part, timeout, on_progress)
        except _ConnectionBroken as broken:
            failures = 1 if _size(part) - before >= CHUNK else failures + 1
            if failures >= attempts:
                raise RcdmError(
                    f"The download of {url} stopped after {_size(part)} bytes ({broken}). Repeat the command to resume."
                ) from broken
            time.sleep(_RETRY_SECONDS)


def _fetch(url: str, part: Path, timeout: float, on_progress: Callable[[int, int], None]) -> None:
    """Append to ``part`` until the end of the file; raise ``_ConnectionBroken`` if the answer ends too early."""
    have, tag = _size(part), _tag(part).read_text(encoding="utf-8") if _tag(part).exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if have and tag:
        # If-Range: the server sends the whole file if the file has changed.
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        with _open(urllib.request.Request(url, headers=headers), timeout) as response:
            if response.status != 206:
                have = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                _remove_partial(part)
                raise _ConnectionBroken("the server sent another range than requested")
            length = _length(response)
            free = shutil.disk_usage(part.parent).free
            if (length or 0) + _RESERVED_BYTES > free:
                raise RcdmError(f"The disk of {part.parent} has {free} bytes free; the download needs {length} more.")
            # The validator of a resumed download: a strong ETag, else the modification date, else none (no resuming).
            tag = response.headers.get("ETag", "")
            tag = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
            _tag(part).write_text(tag, encoding="utf-8")
            with part.open("ab" if have else "wb") as file:
                _copy(response, file, have, None if length is None else have + length, on_progress)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # the partial file is complete
        # The file on the server has become shorter.
        _remove_partial(part)
        raise _ConnectionBroken("the file on the server has changed") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _ConnectionBroken(str(error) or type(error).__name__) from error


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
        raise _ConnectionBroken(f"the server reported {total} bytes")


def _open(request: urllib.request.Request, timeout: float) -> Any:
    if urlsplit(request.full_url).scheme not in ("http", "https"):
        raise InputError(f"{request.full_url} is not an http or https address.")
    response = urllib.request.urlopen(request, timeout=timeout)
    if request.full_url.startswith("https:") and not response.url.startswith("https:"):
        response.close()
        raise RcdmError(
            f"{request.full_url} redirects to {response.url}, which is not encrypted. The redirect is refused."
        )
    return response


def _length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Convert network errors to ``RcdmError`` with the address."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise RcdmError(f"{url} answers {error.code} ({error.reason}).") from error
    except urllib.error.URLError as error:
        raise RcdmError(f"{url} cannot be reached ({error.reason}).") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise RcdmError(f"{url} cannot be reached ({error or type(error).__name__}).") from error


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _remove_partial(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)

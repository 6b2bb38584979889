"""Downloads from a server that truncates, stalls and reports wrong sizes."""

import hashlib
import json
import random
import urllib.request

import pytest

from rcdm_cli.core import download as module
from rcdm_cli.core.download import download, find_download, remote_size
from rcdm_cli.core.errors import InputError, RcdmError
from tests.servers import Site, serving

CONTENT = random.Random(0).randbytes(3_000_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # urllib caches an opener with the proxies of the first call.
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def site():
    with serving(Site(CONTENT)) as made:
        yield made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "a.pt"


def visible(path):
    return sorted(file.name for file in path.parent.glob("[!.]*"))


def assert_complete(path, found):
    assert path.read_bytes() == CONTENT
    assert (found.path, found.size, found.sha256) == (path, len(CONTENT), HASH)
    assert visible(path) == ["a.pt", "a.pt.json"]


def test_download_is_complete_and_recorded(site, path):
    progress = []
    found = download(site.url, path, on_progress=lambda *values: progress.append(values))
    assert_complete(path, found)
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert json.loads((path.parent / "a.pt.json").read_text()) == {
        "url": site.url,
        "size": len(CONTENT),
        "sha256": HASH,
    }
    assert find_download(path, site.url) == found
    assert remote_size(site.url) == len(CONTENT)


def test_broken_download_is_resumed(site, path):
    site.truncate, site.times = 1_200_000, 2
    assert_complete(path, download(site.url, path))
    assert site.requests == [("GET", None), ("GET", "bytes=1200000-"), ("GET", "bytes=2400000-")]


def test_next_call_resumes_a_failed_download(site, path):
    site.truncate = 400_000
    with pytest.raises(RcdmError, match="stopped after 800000 bytes") as caught:
        download(site.url, path, attempts=2)
    assert not isinstance(caught.value, InputError)
    assert visible(path) == ["a.pt.part", "a.pt.part.tag"]
    site.truncate = None
    site.requests.clear()
    assert_complete(path, download(site.url, path))
    assert site.requests == [("GET", "bytes=800000-")]


def test_stalled_connection_is_retried(site, path):
    site.stall, site.times = 1_000_000, 1
    assert_complete(path, download(site.url, path, timeout=0.3))
    assert site.requests == [("GET", None), ("GET", "bytes=1000000-")]


def test_changed_file_is_downloaded_from_the_start(site, path):
    site.truncate = 1_000_000
    site.content = bytes(3_000_000)
    with pytest.raises(RcdmError, match="stopped after 1000000 bytes"):
        download(site.url, path, attempts=1)
    site.content, site.tag, site.truncate = CONTENT, '"2"', None
    assert_complete(path, download(site.url, path))


def test_shortened_file_is_downloaded_from_the_start(site, path):
    site.truncate, site.content = 3_500_000, bytes(4_000_000)
    with pytest.raises(RcdmError, match="stopped after 3500000 bytes"):
        download(site.url, path, attempts=1)
    # The tag is unchanged although the content is not: the server answers 416.
    site.content, site.truncate = CONTENT, None
    assert_complete(path, download(site.url, path))


def test_download_from_a_server_without_ranges_starts_again(site, path):
    site.ranges, site.truncate, site.times = False, 1_000_000, 2
    assert_complete(path, download(site.url, path))


def test_wrong_range_is_refused(site, path):
    site.truncate, site.times, site.misplace = 1_500_000, 1, 7
    assert_complete(path, download(site.url, path))


def test_download_without_validator_is_not_resumed(site, path):
    site.tag, site.truncate, site.times = "", 1_000_000, 2
    assert_complete(path, download(site.url, path))
    assert site.requests == [("GET", None)] * 3


def test_download_from_a_server_without_content_length_is_complete(site, path):
    site.chunked = True
    assert remote_size(site.url) is None
    assert_complete(path, download(site.url, path))
    (path.parent / "a.pt").unlink()
    site.truncate, site.times = 1_000_000, 1
    assert_complete(path, download(site.url, path))


def test_too_large_content_length_is_an_error(site, path):
    site.claim = len(CONTENT) + 5
    with pytest.raises(RcdmError, match=f"reported {len(CONTENT) + 5} bytes"):
        download(site.url, path, attempts=1)
    assert not path.exists()


def test_complete_partial_file_is_not_fetched_again(site, path):
    site.claim = len(CONTENT) + 5
    with pytest.raises(RcdmError, match=f"stopped after {len(CONTENT)} bytes"):
        download(site.url, path, attempts=1)
    site.claim = None
    assert_complete(path, download(site.url, path))
    assert site.requests == [("GET", None), ("GET", f"bytes={len(CONTENT)}-")]


def test_too_small_content_length_is_detected_by_the_hash(site, path):
    site.claim = len(CONTENT) - 5
    with pytest.raises(InputError, match=f"not {HASH[:8]}"):
        download(site.url, path, sha256=HASH[:8])
    assert visible(path) == []


def test_wrong_content_is_detected_by_the_hash(site, path):
    site.content = bytes(len(CONTENT))
    with pytest.raises(InputError, match="The file was removed"):
        download(site.url, path, sha256=HASH)
    assert visible(path) == []
    site.content = CONTENT
    assert_complete(path, download(site.url, path, sha256=HASH))


def test_wrong_content_is_detected_by_the_check(site, path):
    def check(part):
        raise InputError(f"{part} is a login page.")

    with pytest.raises(InputError, match="unexpected content, which was removed: the file is a login page"):
        download(site.url, path, check=check)
    assert visible(path) == []


def test_failed_download_leaves_an_earlier_file_unchanged(site, path):
    path.parent.mkdir()
    path.write_bytes(b"earlier")
    with pytest.raises(InputError, match=r"not 0000\. The file was removed"):
        download(site.url, path, sha256="0000")
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_server_error_is_reported(site, path, status):
    site.status = status
    for ask in (lambda: download(site.url, path), lambda: remote_size(site.url)):
        with pytest.raises(RcdmError, match=f"{site.url} answers {status}"):
            ask()
    assert not path.exists()


def test_unreachable_server_is_reported(path):
    with serving(Site()) as gone:
        pass
    with pytest.raises(RcdmError, match="cannot be reached"):
        download(gone.url, path)


def test_redirects_are_followed_to_http_only(site, path):
    site.redirect = "/elsewhere"
    assert_complete(path, download(f"{site.url}/a", path))
    site.redirect = "file:///etc/passwd"
    with pytest.raises(RcdmError, match=r"answers 302 .*file:///etc/passwd"):
        download(f"{site.url}/a", path)
    with pytest.raises(InputError, match="not an http or https address"):
        download(path.as_uri(), path)


def test_full_disk_is_reported(site, path, monkeypatch):
    monkeypatch.setattr(module, "_RESERVED_BYTES", 1 << 60)
    with pytest.raises(RcdmError, match=f"needs {len(CONTENT)} more"):
        download(site.url, path)


def test_concurrent_download_is_refused(site, path):
    def check(part):
        with pytest.raises(RcdmError, match="Another process"):
            download(site.url, path)

    assert_complete(path, download(site.url, path, check=check))


def test_find_download_ignores_changed_files_and_other_sources(site, path):
    download(site.url, path)
    assert find_download(path, f"{site.url}/other") is None
    assert find_download(path, site.url, sha256="0000") is None
    path.write_bytes(CONTENT[:-1] + bytes(1))
    assert find_download(path, site.url) is None
    path.unlink()
    assert find_download(path, site.url) is None
    (path.parent / "a.pt.json").write_text("[]")
    assert find_download(path, site.url) is None

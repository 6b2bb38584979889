"""Downloads from a server that truncates, stalls and lies."""

import hashlib
import json
import random
import urllib.request

import pytest

from rcdm_cli.core import download as module
from rcdm_cli.core.download import already, download, remote_size
from rcdm_cli.core.errors import InputError, RcdmError
from tests.servers import Site, serving

CONTENT = random.Random(0).randbytes(3_000_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # One opener is kept for the process, with the proxies that it found at first.
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def site():
    with serving(Site(CONTENT)) as made:
        yield made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "a.pt"


def visible(path):
    return sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("."))


def whole(path, found):
    assert path.read_bytes() == CONTENT
    assert (found.path, found.size, found.sha256) == (path, len(CONTENT), HASH)
    assert visible(path) == ["a.pt", "a.pt.json"]


def test_a_download_is_whole_and_recorded(site, path):
    told = []
    found = download(site.url, path, on_progress=lambda *progress: told.append(progress))
    whole(path, found)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert json.loads((path.parent / "a.pt.json").read_text()) == {
        "url": site.url,
        "size": len(CONTENT),
        "sha256": HASH,
    }
    assert already(path, site.url) == found
    assert remote_size(site.url) == len(CONTENT)


def test_a_broken_download_is_resumed_where_it_broke(site, path):
    site.truncate, site.times = 1_200_000, 2
    whole(path, download(site.url, path))
    assert site.asked == [("GET", None), ("GET", "bytes=1200000-"), ("GET", "bytes=2400000-")]


def test_the_next_call_goes_on(site, path):
    site.truncate = 400_000
    with pytest.raises(RcdmError, match="broke off after 800000 bytes") as caught:
        download(site.url, path, attempts=2)
    assert not isinstance(caught.value, InputError)
    assert visible(path) == ["a.pt.part", "a.pt.part.tag"]
    site.truncate = None
    site.asked.clear()
    whole(path, download(site.url, path))
    assert site.asked == [("GET", "bytes=800000-")]


def test_a_stall_is_a_broken_connection(site, path):
    site.stall, site.times = 1_000_000, 1
    whole(path, download(site.url, path, timeout=0.3))
    assert site.asked == [("GET", None), ("GET", "bytes=1000000-")]


def test_a_file_that_changed_meanwhile_is_taken_from_its_start(site, path):
    site.truncate = 1_000_000
    site.content = bytes(3_000_000)
    with pytest.raises(RcdmError):
        download(site.url, path, attempts=1)
    site.content, site.tag, site.truncate = CONTENT, '"2"', None
    whole(path, download(site.url, path))


def test_a_file_that_became_shorter_is_taken_from_its_start(site, path):
    site.truncate, site.content = 3_500_000, bytes(4_000_000)
    with pytest.raises(RcdmError):
        download(site.url, path, attempts=1)
    # The same tag: a server that lies. It answers 416.
    site.content, site.truncate = CONTENT, None
    whole(path, download(site.url, path))


def test_a_server_that_ignores_ranges(site, path):
    site.ranges, site.truncate, site.times = False, 1_000_000, 2
    whole(path, download(site.url, path))


def test_a_server_that_sends_another_part_than_was_asked_for(site, path):
    site.truncate, site.times, site.misplace = 1_500_000, 1, 7
    whole(path, download(site.url, path))


def test_a_server_without_tags_is_not_resumed(site, path):
    site.tag, site.truncate, site.times = "", 1_000_000, 2
    whole(path, download(site.url, path))
    assert site.asked == [("GET", None)] * 3


def test_a_server_that_names_no_size(site, path):
    site.chunked = True
    assert remote_size(site.url) is None
    whole(path, download(site.url, path))
    (path.parent / "a.pt").unlink()
    site.truncate, site.times = 1_000_000, 1
    whole(path, download(site.url, path))


def test_a_length_that_is_too_large(site, path):
    site.claim = len(CONTENT) + 5
    with pytest.raises(RcdmError, match=f"promised {len(CONTENT) + 5} bytes"):
        download(site.url, path, attempts=1)
    assert not path.exists()


def test_a_file_that_was_whole_but_not_yet_named_is_not_fetched_again(site, path):
    site.claim = len(CONTENT) + 5
    with pytest.raises(RcdmError):
        download(site.url, path, attempts=1)
    site.claim = None
    whole(path, download(site.url, path))
    assert site.asked == [("GET", None), ("GET", f"bytes={len(CONTENT)}-")]


def test_a_length_that_is_too_small_is_found_by_the_hash(site, path):
    site.claim = len(CONTENT) - 5
    with pytest.raises(InputError, match=f"not {HASH[:8]}"):
        download(site.url, path, sha256=HASH[:8])
    assert visible(path) == []


def test_wrong_bytes_are_found_by_the_hash(site, path):
    site.content = bytes(len(CONTENT))
    with pytest.raises(InputError, match="It was thrown away"):
        download(site.url, path, sha256=HASH)
    assert visible(path) == []
    site.content = CONTENT
    whole(path, download(site.url, path, sha256=HASH))


def test_wrong_bytes_are_found_by_the_check(site, path):
    def check(part):
        raise InputError(f"{part} is a page that asks to log in.")

    with pytest.raises(InputError, match="not what was expected, and was thrown away: it is a page"):
        download(site.url, path, check=check)
    assert visible(path) == []


def test_wrong_bytes_leave_an_earlier_file_alone(site, path):
    path.parent.mkdir()
    path.write_bytes(b"earlier")
    with pytest.raises(InputError):
        download(site.url, path, sha256="0000")
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_error_of_the_server(site, path, status):
    site.status = status
    for ask in (lambda: download(site.url, path), lambda: remote_size(site.url)):
        with pytest.raises(RcdmError, match=f"{site.url} answers {status}"):
            ask()
    assert not path.exists()


def test_a_server_that_is_not_there(path):
    with serving(Site()) as gone:
        pass
    with pytest.raises(RcdmError, match="cannot be reached"):
        download(gone.url, path)


def test_redirects_are_followed_but_only_on_the_network(site, path):
    site.redirect = "/elsewhere"
    whole(path, download(f"{site.url}/a", path))
    site.redirect = "file:///etc/passwd"
    with pytest.raises(RcdmError):
        download(f"{site.url}/a", path)
    with pytest.raises(InputError, match="not an http or https address"):
        download(path.as_uri(), path)


def test_no_room(site, path, monkeypatch):
    monkeypatch.setattr(module, "_ROOM_TO_SPARE", 1 << 60)
    with pytest.raises(RcdmError, match=f"{len(CONTENT)} more are to come"):
        download(site.url, path)


def test_two_at_once(site, path):
    def check(part):
        with pytest.raises(RcdmError, match="by another process"):
            download(site.url, path)

    whole(path, download(site.url, path, check=check))


def test_a_file_that_was_changed_or_comes_from_elsewhere_is_not_taken_for_it(site, path):
    download(site.url, path)
    assert already(path, f"{site.url}/other") is None
    assert already(path, site.url, sha256="0000") is None
    path.write_bytes(CONTENT[:-1] + bytes(1))
    assert already(path, site.url) is None
    path.unlink()
    assert already(path, site.url) is None
    (path.parent / "a.pt.json").write_text("[]")
    assert already(path, site.url) is None

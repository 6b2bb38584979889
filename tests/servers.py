"""Local HTTP server for one file, with configurable faults."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Content and faults of the server; a test may change them between requests.

    Attributes:
        content: bytes of the file.
        tag: ETag header.
        truncate: bytes after which the connection is closed.
        stall: bytes after which the server stops sending.
        ranges: whether the server supports Range requests.
        claim: wrong Content-Length.
        misplace: offset in bytes of the Content-Range header of a partial answer.
        chunked: chunked transfer encoding, without Content-Length.
        status: HTTP status.
        redirect: target of a redirect.
        times: number of faulty answers.
        requests: method and Range header of each request.
        url: address of the file.
    """

    content: bytes = b""
    tag: str = '"1"'
    truncate: int | None = None
    stall: int | None = None
    ranges: bool = True
    claim: int | None = None
    misplace: int = 0
    chunked: bool = False
    status: int = 200
    redirect: str = ""
    times: int = 10**9
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def bad(self) -> bool:
        """Return whether this answer is faulty, and count it."""
        self.times -= 1
        return self.times >= 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        site = self.site
        wanted = self.headers.get("Range")
        site.requests.append((self.command, wanted))
        if site.redirect and self.path != "/elsewhere":
            self.send_response(302)
            self.send_header("Location", site.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if site.status != 200:
            self.send_error(site.status)
            return
        start = 0
        if wanted and site.ranges and self.headers.get("If-Range") in (None, site.tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            first = start + site.misplace
            self.send_header("Content-Range", f"bytes {first}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        data = site.content[start:]
        bad = body and site.bad()
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            claim = site.claim if site.claim is not None and (bad or not body) else len(data)
            self.send_header("Content-Length", str(claim))
        if site.tag:
            self.send_header("ETag", site.tag)
        self.end_headers()
        if body:
            self._send(data, bad)

    def _send(self, data, bad):
        site = self.site
        if site.chunked:
            data = f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n"
        cut = site.truncate if site.truncate is not None else site.stall
        part = data[:cut] if bad and cut is not None else data
        self.wfile.write(part)
        self.wfile.flush()
        if bad and site.stall is not None:
            time.sleep(1)
        if len(part) < len(data) or site.claim is not None:
            self.close_connection = True


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve ``site`` at ``site.url`` on a free local port."""
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

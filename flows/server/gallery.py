"""Galleries over HTTP, for the browser that shows Prefect's UI: index.html, its data and its videos, nothing else."""

from __future__ import annotations

import base64
import hmac
import html
import re
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from cogvideo_core.errors import StorageError
from flows.server.shelves import PAGE, Shelf, asked, shelf_of

RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
NOTHING = ["<p>No run has come to its gallery yet.</p>"]
FRONT = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'"}
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".mp4": "video/mp4"}
# A page of another origin must not run our data as its own script, which it could read, nor play our videos
OURS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-cache"}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def serve(folder: str | Path, host: str, port: int, auth: str = "") -> ThreadingHTTPServer:
    """A server of the galleries below a path or URL; `auth` is the user:password it asks for. Call serve_forever().

    Raises ForbiddenUri for a URL that may not be used.
    """
    handler = partial(Handler, shelf_of(folder), auth)
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    return server


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of pages, their data and videos, with byte ranges, which browsers seek with."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "gallery", ""

    def __init__(self, shelf: Shelf, auth: str, *args: object) -> None:
        self.shelf, self.auth = shelf, auth
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.auth and self._strange_host():
            self._refuse(HTTPStatus.FORBIDDEN)  # or a foreign page could read us by DNS rebinding
        elif self.auth and not self._welcome():
            self._refuse(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="gallery"'})
        else:
            self._serve()

    def _serve(self) -> None:
        try:
            name = asked(self.path)
            size = self.shelf.size(name) if name else None
            if self.path == "/":
                self._answer(front_page(self.shelf), FRONT)
            elif name and size is not None:
                self._send(name, size)
            else:
                self._refuse(HTTPStatus.NOT_FOUND)
        except FileNotFoundError:  # a collection has just removed it
            self._refuse(HTTPStatus.NOT_FOUND)
        except StorageError:  # the store is out of reach; who looks may try again
            self.close_connection = True
            self._refuse(HTTPStatus.BAD_GATEWAY)

    def _strange_host(self) -> bool:
        return re.sub(r":\d+$", "", self.headers.get("Host", "")) not in LOOPBACK

    def _welcome(self) -> bool:
        wanted = "Basic " + base64.b64encode(self.auth.encode()).decode()
        return hmac.compare_digest(self.headers.get("Authorization", "").encode(), wanted.encode())

    def _refuse(self, status: HTTPStatus, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"Content-Length": "0"} | (headers or {}))

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | OURS).items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, data: bytes, headers: dict[str, str]) -> None:
        self._head(HTTPStatus.OK, headers | {"Content-Length": str(len(data))})
        if self.command == "GET":
            self.wfile.write(data)

    def _send(self, name: str, size: int) -> None:
        wanted = wanted_range(self.headers.get("Range", ""), size)
        first, last = wanted or (0, size - 1)
        headers = {"Content-Type": KINDS[PurePosixPath(name).suffix], "Content-Length": str(last - first + 1)}
        headers |= {"Accept-Ranges": "bytes"}
        headers |= {"Content-Range": f"bytes {first}-{last}/{size}"} if wanted else {}
        parts = self.shelf.read(name, first, last) if self.command == "GET" else iter(())
        data = next(parts, b"")  # a store that can't be read is told before a header says that all is well
        self._head(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK, headers)
        while data:
            self.wfile.write(data)
            data = next(parts, b"")

    def log_message(self, format: str, *args: object) -> None:
        """Silent: what is looked at is nobody's business."""


def front_page(shelf: Shelf) -> bytes:
    """Links to the galleries."""
    names = shelf.galleries()
    links = [f'<p><a href="/{quote(name)}/{PAGE}">{html.escape(name)}</a></p>' for name in names]
    return ("<!doctype html><title>Galleries</title><h1>Galleries</h1>" + "".join(links or NOTHING)).encode()


def wanted_range(header: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte of a range header, cut to the file; None if it is missing or makes no sense."""
    match = RANGE.fullmatch(header.strip())
    if not match or not any(match.groups()) or not size:
        return None
    start, end = match.groups()
    first = int(start) if start else max(0, size - int(end))
    last = min(int(end), size - 1) if start and end else size - 1
    return (first, last) if first <= last else None

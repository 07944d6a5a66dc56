"""Galleries over HTTP, for the browser that shows Prefect's UI: index.html, its data and its videos, nothing else."""

from __future__ import annotations

import base64
import hmac
import html
import os
import re
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

PAGE = "index.html"
STORED = r"(?:edits|sources)/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{32}/(?:edit|source)\.mp4"  # of rejected edits
VIDEO = re.compile(rf"(?:.*/)?(?:dataset/videos/(?:[0-9a-f]{{2}}/)?[A-Za-z0-9._-]+\.mp4|{STORED})")
DATA = re.compile(r"(?:.*/)?gallery/(?:index-)?[0-9]{5,9}\.js")  # what index.html loads of a large gallery
RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
PART_BYTES, DEPTH = 1 << 20, 3
NOTHING = ["<p>No run has come to its gallery yet.</p>"]
FRONT = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'"}
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".mp4": "video/mp4"}
# A page of another origin must not run our data as its own script, which it could read, nor play our videos
OURS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-cache"}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def serve(folder: Path, host: str, port: int, auth: str = "") -> ThreadingHTTPServer:
    """A server of the galleries below `folder`; `auth` is the user:password that it asks for. Call serve_forever()."""
    handler = partial(Handler, folder.resolve(), auth)
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    return server


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of pages, their data and videos, with byte ranges, which browsers seek with."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "gallery", ""

    def __init__(self, folder: Path, auth: str, *args: object) -> None:
        self.folder, self.auth = folder, auth
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.auth and self._strange_host():
            self._refuse(HTTPStatus.FORBIDDEN)  # or a foreign page could read us by DNS rebinding
        elif self.auth and not self._welcome():
            self._refuse(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="gallery"'})
        elif self.path == "/":
            self._answer(front_page(self.folder), FRONT)
        elif path := found(self.folder, self.path):
            self._send(path)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

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

    def _send(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first, last = wanted_range(self.headers.get("Range", ""), size) or (0, size - 1)
            part = bool(self.headers.get("Range")) and wanted_range(self.headers["Range"], size) is not None
            headers = {"Content-Type": KINDS[path.suffix], "Content-Length": str(last - first + 1)}
            headers |= {"Accept-Ranges": "bytes"}
            headers |= {"Content-Range": f"bytes {first}-{last}/{size}"} if part else {}
            self._head(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK, headers)
            file.seek(first)
            left = last - first + 1 if self.command == "GET" else 0
            while left > 0 and (data := file.read(min(left, PART_BYTES))):
                self.wfile.write(data)
                left -= len(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: what is looked at is nobody's business."""


def front_page(folder: Path) -> bytes:
    """Links to the galleries at most DEPTH folders down."""
    pages = sorted(path for depth in range(DEPTH + 1) for path in folder.glob("*/" * depth + PAGE))
    names = [path.parent.relative_to(folder).as_posix() for path in pages if (path.parent / "dataset").is_dir()]
    links = [f'<p><a href="/{quote(name)}/{PAGE}">{html.escape(name)}</a></p>' for name in names]
    return ("<!doctype html><title>Galleries</title><h1>Galleries</h1>" + "".join(links or NOTHING)).encode()


def found(folder: Path, target: str) -> Path | None:
    """The page, data or video that a request's target names, if it is one and really lies below the folder."""
    try:
        name = unquote(urlsplit(target).path, errors="strict").lstrip("/")
        path = (folder / name).resolve()
    except (ValueError, OSError):
        return None
    inside = path.is_relative_to(folder) and path.is_file()
    if not inside:
        return None
    below = path.relative_to(folder).as_posix()
    return path if path.name == PAGE or VIDEO.fullmatch(below) or DATA.fullmatch(below) else None


def wanted_range(header: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte of a range header, cut to the file; None if it is missing or makes no sense."""
    match = RANGE.fullmatch(header.strip())
    if not match or not any(match.groups()) or not size:
        return None
    start, end = match.groups()
    first = int(start) if start else max(0, size - int(end))
    last = min(int(end), size - 1) if start and end else size - 1
    return (first, last) if first <= last else None

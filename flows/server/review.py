"""The gallery of one run in a mode where a person keeps and rejects edits: on this machine alone, behind a token."""

from __future__ import annotations

import hmac
import json
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cogvideo_core.dataset.reviews import append_review, read_reviews
from cogvideo_core.storage.ledger import Ledger
from flows.server.gallery import Handler
from flows.server.shelves import PAGE, LocalShelf

MOST_BYTES = 1000  # of a request
TOKEN = "X-Review-Token"
CLOSED, OPEN = "default-src 'none';", "default-src 'none'; connect-src 'self';"


def serve_review(root: Path, token: str, port: int = 0) -> ThreadingHTTPServer:
    """A server of `root`'s gallery on the loopback address; port 0 takes a free one. Call serve_forever()."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(ReviewHandler, root.resolve(), token))
    server.daemon_threads = True
    return server


class ReviewHandler(Handler):
    """GET of the page, its data and videos; GET and POST of `review`, for pages that this server gave out alone."""

    def __init__(self, folder: Path, token: str, *args: object) -> None:
        self.token, self.folder = token, folder
        super().__init__(LocalShelf(folder), "", *args)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self._strange_host():
            self._refuse(HTTPStatus.FORBIDDEN)
        elif url.path in ("/", f"/{PAGE}"):
            given = parse_qs(url.query).get("token", [""])[0]
            self._page() if self._is_token(given) else self._refuse(HTTPStatus.FORBIDDEN)
        elif url.path == "/review":
            self._told() if self._is_token(self.headers.get(TOKEN, "")) else self._refuse(HTTPStatus.FORBIDDEN)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() and len(length) < 5 else MOST_BYTES + 1
        body = self.rfile.read(size) if size <= MOST_BYTES else b""
        self.close_connection = size > MOST_BYTES  # what is not read must not be taken for the next request
        origin = self.headers.get("Origin", "")
        if self._strange_host() or origin != f"http://{self.headers.get('Host', '')}":
            self._refuse(HTTPStatus.FORBIDDEN)  # another origin, or none at all
        elif not self._is_token(self.headers.get(TOKEN, "")):
            self._refuse(HTTPStatus.FORBIDDEN)
        elif urlsplit(self.path).path != "/review" or size > MOST_BYTES:
            self._refuse(HTTPStatus.NOT_FOUND if size <= MOST_BYTES else HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._note(body)

    def _note(self, body: bytes) -> None:
        try:
            row = json.loads(body)
            append_review(self.folder, row["edit_key"], row["said"])
        except (ValueError, KeyError, TypeError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST)
        except OSError:  # a full disk: the page says that nothing was saved
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE)
        else:
            self._refuse(HTTPStatus.NO_CONTENT)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def _page(self) -> None:
        page = (self.folder / PAGE).read_text("utf-8")
        page = page.replace(CLOSED, OPEN, 1).replace("<html ", f'<html data-review="{self.token}" ', 1)
        self._answer(page.encode(), {"Content-Type": "text/html; charset=utf-8"})  # its own policy is in it

    def _told(self) -> None:
        found = json.dumps(read_reviews(Ledger(str(self.folder))))
        self._answer(found.encode(), {"Content-Type": "application/json"})

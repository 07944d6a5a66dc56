"""The review server: only pages that it gave out itself may say anything, and bad words are refused."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cogvideo_core.dataset.gallery import gallery_files
from cogvideo_core.dataset.reviews import read_reviews
from cogvideo_core.storage.ledger import Ledger
from flows.cli.main import app
from flows.server.review import serve_review

TOKEN, KEY = "a-secret-token", "a" * 64


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "index.html").write_bytes(dict(gallery_files([], [], {}))["index.html"])
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/settings.json").write_text("{}")
    server = serve_review(tmp_path, TOKEN)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def asked(server: Any, method: str, path: str, body: str = "", **headers: str) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def said(server: Any, body: str, path: str = "/review", **headers: str) -> int:
    own = {"Origin": f"http://127.0.0.1:{server.server_port}", "X_Review_Token": TOKEN}
    return asked(server, "POST", path, body, **{name: value for name, value in (own | headers).items() if value})[0]


WORD = json.dumps({"edit_key": KEY, "said": "keep"})


def test_a_page_with_the_token_reviews(server: Any, tmp_path: Path) -> None:
    """The page holds the token and may connect to its own server alone; a word is kept and read back."""
    status, page, _ = asked(server, "GET", f"/?token={TOKEN}")
    assert status == 200 and b'data-review="a-secret-token"' in page
    assert b"default-src 'none'; connect-src 'self'; media-src" in page
    assert said(server, WORD) == 204
    assert read_reviews(Ledger(str(tmp_path))) == {KEY: "keep"}
    status, found, _ = asked(server, "GET", "/review", X_Review_Token=TOKEN)
    assert (status, json.loads(found)) == (200, {KEY: "keep"})


def test_strangers_get_403(server: Any, tmp_path: Path) -> None:
    """Another origin, none, another host, no token or a wrong one: nothing is shown and nothing is written."""
    port = server.server_port
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": ""},
        {"Origin": f"http://127.0.0.1:{port + 1}"},
        {"Origin": "null"},
        {"X_Review_Token": ""},
        {"X_Review_Token": "a-secret-toke"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
    ):
        assert said(server, WORD, **headers) == 403, headers
    for path in ("/", "/?token=", "/?token=x", "/index.html", "/review"):
        assert asked(server, "GET", path)[0] == 403, path
    assert asked(server, "GET", f"/?token={TOKEN}", Host="evil.example")[0] == 403
    assert asked(server, "GET", "/plan/settings.json")[0] == 404
    assert not (tmp_path / "reviews.jsonl").exists()


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "1", '"x"', '{"edit_key": 1, "said": "keep"}', '{"edit_key": "x", "said": "keep"}', "[" * 900]
    + [json.dumps({"edit_key": KEY, "said": word}) for word in ("", "delete", None, ["keep"])],
)
def test_bad_words_are_refused(server: Any, tmp_path: Path, body: str) -> None:
    """What is no review is answered with 400, and nothing is written."""
    assert said(server, body) == 400
    assert not (tmp_path / "reviews.jsonl").exists()


def test_large_requests_and_other_places_are_refused(server: Any, tmp_path: Path) -> None:
    """No body above a kilobyte is read, and nothing is posted elsewhere."""
    assert said(server, "x" * 2000) == 413
    assert said(server, WORD, path="/") == 404
    assert not (tmp_path / "reviews.jsonl").exists()


def test_a_root_that_cannot_be_reviewed_says_why(tmp_path: Path) -> None:
    """A remote root, and a folder without a gallery: one sentence each."""
    for root, told in (("s3://bucket/run", "is not on this machine"), (str(tmp_path), "there is no gallery in")):
        found = CliRunner().invoke(app, ["review", root, "--no-browser"])
        assert found.exit_code == 2 and told in found.stderr

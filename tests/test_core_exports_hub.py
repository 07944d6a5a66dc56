"""A finished export is pushed to a hub by the hub's own client; the hub here is a server of the test's own, which keeps
what is committed to it and sees no real one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import exported_run
import huggingface_hub
import pytest

from cogvideo_core.errors import BadSpec, StorageError
from cogvideo_core.exports.export import export
from cogvideo_core.exports.hub import push, repository_of
from cogvideo_core.exports.spec import ExportSpec

TOKEN = "hf_of_the_tests"


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits as the hub does, for files that come in the commit itself."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._say({"sha": "0" * 40, "siblings": [], "id": "user/edits", "private": True, "tags": []})

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._say({"error": "no such token"}, 401)
        elif self.path == "/api/repos/create":
            self.server.repositories.append(json.loads(body))
            self._say({"url": f"{self.server.url}/datasets/user/edits", "name": "user/edits", "id": "1"})
        elif self.path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in asked]
            self._say({"files": told})
        elif self.path.startswith("/api/datasets/user/edits/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/datasets/user/edits/commit/{'1' * 40}"
            self._say({"commitOid": "1" * 40, "commitUrl": url, "success": True})
        else:
            self._say({"error": f"not of this hub: {self.path}"}, 404)

    def _say(self, told: dict[str, Any], status: int = 200) -> None:
        raw = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine that the client takes for the real one, with a token that it accepts."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.hf_api.constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished export, to be read only."""
    folder = tmp_path_factory.mktemp("finished")
    run = exported_run.make(str(folder / "root"), folder / "made", clips=1)
    export(run.root, str(folder / "export"), ExportSpec(to="parquet"))
    return folder / "export"


def test_a_finished_export_is_pushed(hub: Hub, finished: Path) -> None:
    """Every file but the export's own record arrives with its bytes, in a dataset repository, private if told."""
    address = push(str(finished), "hf://user/edits", private=True)
    assert address == f"{hub.url}/datasets/user/edits"
    (made,) = hub.repositories
    assert made == {"name": "edits", "organization": "user", "type": "dataset", "visibility": "private"}
    names = ["README.md", "data/train-00000.parquet", "sha256sums.txt"]
    assert hub.files == {name: (finished / name).read_bytes() for name in names}


def test_a_push_without_a_token_is_refused(hub: Hub, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that says how to log in, before anything is asked of the hub."""
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadSpec, match=r"needs a token of the hub; log in with hf auth login, or set HF_TOKEN"):
        push(str(finished), "hf://user/edits")
    assert hub.asked == []


def test_what_the_hub_refuses_is_a_sentence(hub: Hub, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token, a client that is told to stay offline, and a hub that is gone; no token is in the sentence."""
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StorageError, match=r"hub 'hf://user/edits': .*check the token") as caught:
        push(str(finished), "hf://user/edits")
    assert "hf_wrong" not in str(caught.value) and hub.files == {}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="offline mode"):
        push(str(finished), "hf://user/edits")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.server_close()
    hub.shutdown()
    with pytest.raises(StorageError, match="check the token's rights and the network"):
        push(str(finished), "hf://user/edits")


def test_only_a_finished_export_is_pushed(hub: Hub, finished: Path, tmp_path: Path) -> None:
    """Not a run, not half an export, not one that lacks a file, not a folder elsewhere; nothing is asked of the hub."""
    with pytest.raises(BadSpec, match="holds no finished export"):
        push(str(finished.parent / "root"), "hf://user/edits")
    with pytest.raises(BadSpec, match="is not on this machine"):
        push("memory://x/export", "hf://user/edits")
    half = tmp_path / "half"
    (half / ".export").mkdir(parents=True)
    for name in (".export/export.json", "README.md"):
        (half / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(BadSpec, match="holds no finished export"):
        push(str(half), "hf://user/edits")
    (half / "sha256sums.txt").write_bytes((finished / "sha256sums.txt").read_bytes())
    with pytest.raises(BadSpec, match=r"lacks 'data/train-00000.parquet'"):
        push(str(half), "hf://user/edits")
    assert hub.asked == []


@pytest.mark.parametrize("to", ["hf://", "hf://user", "hf://user/../x", "hf://a/b/c", "hf://user:secret@host/x"])
def test_an_address_that_is_none_is_refused(to: str, finished: Path) -> None:
    """With how to write one; what may be a password is not repeated."""
    with pytest.raises(BadSpec, match="write hf://user/name") as caught:
        push(str(finished), to)
    assert "secret" not in str(caught.value)
    assert repository_of("hf://datasets/user/edits") == repository_of("hf://user/edits") == "user/edits"

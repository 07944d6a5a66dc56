"""Whole runs on a real S3 server, and what they must not tell anyone."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import pytest

from cogvideo_core.errors import StorageError
from cogvideo_core.shapes.make import make_clips
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.upkeep.verify import open_root, usage, verify_tree
from flows.server.gallery import serve

pytestmark = pytest.mark.e2e


def without_address(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name in ("edits", "states", "rows", "errors")}


def test_a_run_on_s3_is_the_run_on_a_disk(toy: Any, s3_root: str, tmp_path: Path) -> None:
    """The same keys, states, edits and rows; done again nothing is computed; a flipped shard and a cut video are found
    and repaired."""
    toy.run(str(tmp_path / "run"), tmp_path / "clips", 1)
    toy.run(s3_root, tmp_path / "clips", 1)
    good = toy.result(s3_root)
    assert without_address(good) == without_address(toy.result(str(tmp_path / "run")))
    assert list(verify_tree(s3_root)) == []
    toy.run(s3_root, tmp_path / "clips", 1, model := toy.ToyModel())
    assert model.evaluations == 0
    objects = open_root(s3_root).objects
    shard = next(name for name, _ in objects.walk("trajectories") if name.endswith(".arrow"))
    video = next(name for name, _ in objects.walk("dataset/videos"))
    data = bytearray(objects.read(shard))
    data[len(data) // 2] ^= 1
    objects.fs.pipe_file(objects.path(shard), bytes(data))
    objects.fs.pipe_file(objects.path(video), objects.read(video)[:-1])
    assert {finding.name for finding in verify_tree(s3_root)} == {shard, video}
    toy.run(s3_root, tmp_path / "clips", 1, verify="full")
    assert toy.result(s3_root) == good and list(verify_tree(s3_root)) == []
    assert usage(open_root(s3_root))["quarantine"][0] == 3


def test_the_gallery_is_served_from_a_store(toy: Any, s3_root: str, tmp_path: Path) -> None:
    """A collected run on S3: its page, as a page, and its videos, in the parts that a browser asks for."""
    toy.run(s3_root, tmp_path / "clips", 1)
    server = serve(s3_root.rpartition("/")[0], "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address, run = f"http://127.0.0.1:{server.server_port}", s3_root.rpartition("/")[2]
    objects = open_root(s3_root).objects
    assert objects.fs.info(objects.path("index.html"))["ContentType"] == "text/html"  # for who hosts it as a site
    with urlopen(f"{address}/") as answer:
        assert f'href="/{run}/index.html"' in answer.read().decode()
    with urlopen(f"{address}/{run}/index.html") as answer:
        assert answer.read() == objects.read("index.html")
    video = next(name for name, _ in objects.walk("dataset/videos"))
    with urlopen(Request(f"{address}/{run}/{video}", headers={"Range": "bytes=10-19"})) as answer:
        assert answer.status == 206 and answer.read() == objects.read(video)[10:20]
    server.shutdown()
    server.server_close()


def test_credentials_reach_nothing(
    toy: Any, s3_root: str, s3: dict[str, Any], tmp_path: Path, caplog: Any, capfd: Any
) -> None:
    """Neither key nor secret is in any object, log line or output of a run, nor in the errors of a wrong secret."""
    with caplog.at_level(logging.INFO):
        toy.run(s3_root, tmp_path / "clips", 1, verify="full")
    objects = open_root(s3_root).objects
    stored = b"".join(name.encode() + objects.read(name) for name, _ in objects.walk(""))
    printed = "".join(capfd.readouterr())
    assert len(stored) > 10_000
    for secret in (s3["key"], s3["secret"]):
        assert secret.encode() not in stored and secret not in caplog.text + printed
    wrong = s3 | {"secret": "another-secret-" + s3["secret"]}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageError) as caught:
        patch.setitem(fsspec.config.conf, "s3", wrong)
        Ledger(s3_root).find("edits", "a" * 64)
    assert wrong["secret"] not in str(caught.value) and "commit.json" in str(caught.value)


def test_a_server_that_is_away_is_worth_another_try(s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is a failure of the store, never "not done"."""
    away = s3 | {"client_kwargs": s3["client_kwargs"] | {"endpoint_url": "http://127.0.0.1:9"}}
    monkeypatch.setitem(fsspec.config.conf, "s3", away)
    with pytest.raises(StorageError) as caught:
        Ledger("s3://runs/away").find("edits", "a" * 64)
    assert caught.value.retryable


@pytest.mark.timeout(400)
def test_credentials_reach_neither_prefect_nor_the_terminal(
    s3_root: str, s3: dict[str, Any], tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    """A whole run of the command line on S3: the secret is in no output, no file of Prefect and no object."""
    manifest = make_clips(tmp_path / "clips", 1, prompts=1)
    sets = ("inversion.steps=4", "inversion.iterations=1", "engine.edits_per_batch=1")
    command = [sys.executable, "-m", "flows.cli", "run", str(manifest), "--output", s3_root]
    command += ["--model", str(tiny_pipeline_folder), *(part for each in sets for part in ("--set", each))]
    settings = {
        "FSSPEC_S3": json.dumps(s3),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env={**os.environ, **settings}, capture_output=True, timeout=380
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    objects = open_root(s3_root).objects
    stored = b"".join(objects.read(name) for name, _ in objects.walk(""))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "prefect").rglob("*") if path.is_file())
    assert len(kept) > 100_000 and len(stored) > 10_000 and s3_root.encode() in kept
    assert s3["secret"].encode() not in done.stdout + done.stderr + stored + kept

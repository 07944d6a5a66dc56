"""Fixtures for every test: a Prefect server that leaves no trace, and a tiny CogVideoX on disk."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from hypothesis import settings

if TYPE_CHECKING:
    from cogvideo_core.storage.ledger import Ledger

SCRATCH = Path(tempfile.mkdtemp(prefix="cogvideo-edit-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
sys.path.append(str(Path(__file__).parent))  # modules of helpers beside the tests, which are no package

# Read by the libraries when they are first imported, so set before any test module is.
os.environ |= {
    "PREFECT_HOME": str(SCRATCH / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HOME": str(SCRATCH / "hf"),
    "XDG_CACHE_HOME": str(SCRATCH / "cache"),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Tiny models gain little from a second thread, and lose a lot where another process wants the core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine is no failure: pytest's time-out is the only clock. The rest stays as it is, on CI too.
settings.register_profile("house", settings.default, deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def prefect_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary Prefect server and database; ask for it where a flow or a task really runs."""
    with import_module("servers").harness(tmp_path_factory.mktemp("harness")):
        yield


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a seeded miniature of CogVideoX-5B."""
    from cogvideo_core.shapes.build import build_pipeline

    folder = tmp_path_factory.mktemp("tiny_pipeline")
    build_pipeline("5b").save_pretrained(folder)
    return folder


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module toy_run, with videos that need no ffmpeg."""
    module = import_module("toy_run")
    module.install(monkeypatch.setattr)
    return module


@pytest.fixture(scope="session")
def up_here() -> ModuleType:
    """The module up_here: a server, worker and gallery of a test's own."""
    return import_module("up_here")


@pytest.fixture(scope="session")
def gallery_rows() -> ModuleType:
    """The module gallery_rows: made-up rows for the gallery, and a reader of what it writes."""
    return import_module("gallery_rows")


@pytest.fixture(scope="session")
def undisturbed(prefect_harness: None, tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run that disturbed ones are compared with, made once for all of them."""
    return import_module("undisturbed").run(tiny_pipeline_folder, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Storage options of a real S3 server that enforces If-None-Match."""
    with import_module("s3_servers").seaweed(tmp_path_factory.mktemp("seaweed")) as options:
        yield options


@pytest.fixture(scope="session")
def quirky_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Storage options of a real S3 server that ignores If-None-Match."""
    with import_module("s3_servers").rclone(tmp_path_factory.mktemp("rclone")) as options:
        yield options


@pytest.fixture
def s3_root(s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """A root of its own on the S3 server."""
    monkeypatch.setitem(fsspec.config.conf, "s3", s3)
    return f"s3://runs/{uuid.uuid4().hex}/root"


S3_KINDS = {"s3": "s3", "quirky": "quirky_s3"}
KINDS = ["file", "memory", "generic", *(pytest.param(kind, marks=pytest.mark.e2e) for kind in S3_KINDS)]


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """One ledger for each kind of file system; "generic" is a disk behind fsspec's ordinary interface."""
    from cogvideo_core.storage.ledger import Ledger
    from cogvideo_core.storage.objects import Objects

    if request.param == "file":
        yield Ledger(str(tmp_path / "root"))
    elif request.param == "generic":
        yield Ledger(Objects(DirFileSystem(str(tmp_path), fs=fsspec.filesystem("file")), "root"))
    elif request.param == "memory":
        name = f"memory://{uuid.uuid4().hex}"
        yield Ledger(f"{name}/root")
        fs = fsspec.filesystem("memory")
        if fs.exists(name):
            fs.rm(name, recursive=True)
    else:
        monkeypatch.setitem(fsspec.config.conf, "s3", request.getfixturevalue(S3_KINDS[request.param]))
        yield Ledger(f"s3://runs/{uuid.uuid4().hex}/root")

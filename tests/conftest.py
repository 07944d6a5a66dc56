"""Fixtures for every test: a Prefect server that leaves no trace, and a tiny CogVideoX on disk."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

SCRATCH = Path(tempfile.mkdtemp(prefix="cogvideo-edit-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

# Read by the libraries when they are first imported, so set before any test module is.
os.environ |= {
    "PREFECT_HOME": str(SCRATCH / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HOME": str(SCRATCH / "hf"),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Tiny models gain little from a second thread, and lose a lot where another process wants the core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine is no failure: pytest's time-out is the only clock. The rest stays as it is, on CI too.
settings.register_profile("house", settings.default, deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """A temporary Prefect server and database; ask for it where a flow or a task really runs."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=60):
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
    spec = spec_from_file_location("toy_run", Path(__file__).with_name("toy_run.py"))
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install(monkeypatch.setattr)
    return module

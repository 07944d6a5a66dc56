"""Runs whose server dies, and what goes on after it: everything outside of the process under test is real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

from cogvideo_core.shapes.make import make_clips

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
CLIPS, PROMPTS = 20, 4


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[dict[str, str], Callable[[], Any]]]:
    """(environment of clients, start() -> a running server's process), always the same port and database."""
    port, started = free_port(), []
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    quiet = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment = kept | quiet | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}

    def start() -> Any:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        with open(tmp_path / "server.log", "ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                return process
            except OSError:
                time.sleep(0.3)
        raise AssertionError("the server did not start")

    yield environment, start
    for process in started:
        kill(process)


def kill(process: Any) -> None:
    """SIGKILL to a process and all it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(manifest: Path, root: Path, model: Path, environment: dict[str, str], log: Path) -> Any:
    fast = [f"model.path={model}", "inversion.method=fixed_point", "inversion.gate=off", "inversion.steps=4"]
    sets = [part for one in fast for part in ("--set", one)]
    command = [sys.executable, "-m", "flows.cli", "run", str(manifest), "--output", str(root), *sets]
    with open(log, "ab") as sink:
        return subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)


def edits(root: Path) -> int:
    return len(list(root.glob("edits/*/*/commit.json")))


def wait_for(root: Path, count: int) -> None:
    deadline = time.monotonic() + 600
    while edits(root) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert edits(root) >= count


def evaluations(root: Path) -> int:
    """As counted by the runs that came to their tables."""
    return sum(row["evaluations"] for row in pq.read_table(root / "tables/timings.parquet").to_pylist())


def test_flow_and_server_are_killed(server: Any, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """SIGKILL of the flow's process at 20 of 80 edits, of the server at 40: after both are started again the dataset is
    complete and that of an undisturbed run, byte for byte; the edits committed by then were not made again."""
    environment, start = server
    manifest = make_clips(tmp_path / "in", CLIPS, prompts=PROMPTS)
    root, log = tmp_path / "run", tmp_path / "log"
    serving = start()
    flow = run(manifest, root, tiny_pipeline_folder, environment, log)
    wait_for(root, 20)
    kill(flow)
    kept = edits(root)
    assert 20 <= kept < CLIPS * PROMPTS
    flow = run(manifest, root, tiny_pipeline_folder, environment, log)
    wait_for(root, max(40, kept + 4))
    kill(serving)
    time.sleep(5)  # the flow goes on for as long as its client tries again; whether it ends is its own affair
    kill(flow)
    kept = edits(root)
    assert kept < CLIPS * PROMPTS
    start()
    flow = run(manifest, root, tiny_pipeline_folder, environment, log)
    assert flow.wait(600) == 0, log.read_text()[-3000:]
    other = tmp_path / "other"
    assert run(manifest, other, tiny_pipeline_folder, environment, log).wait(600) == 0
    whole = evaluations(other)
    made = sum((row["edits"] or 0) for row in pq.read_table(root / "tables/timings.parquet").to_pylist())
    assert made <= CLIPS * PROMPTS - kept + PROMPTS  # one batch that was interrupted is made whole
    assert evaluations(root) <= whole * (1 - (kept - PROMPTS) / (CLIPS * PROMPTS)) + whole / CLIPS
    for path in (other / "dataset/metadata.jsonl", *(other / "dataset/videos").iterdir()):
        assert (root / path.relative_to(other)).read_bytes() == path.read_bytes()
    rows = [json.loads(line) for line in (root / "dataset/metadata.jsonl").read_text().splitlines()]
    assert len(rows) == CLIPS * PROMPTS


@pytest.fixture
def postgres(up_here: ModuleType, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of clients of a server that `make serve DB=postgres` has started."""
    data = tempfile.mkdtemp(prefix="postgres-")  # pytest's folders are closed to other accounts
    own = {"POSTGRES_FOLDER": data, "POSTGRES_PORT": str(free_port())}
    with up_here.brought_up(tmp_path, "--database", "postgres", **own) as here:
        yield here.environment | {"PREFECT_API_URL": f"{here.url}/api"}
    assert not Path(data, "data/postmaster.pid").exists()  # the database has ended too
    assert Path(data, "password").stat().st_mode & 0o777 == 0o600
    shutil.rmtree(data)


def test_a_run_on_postgres(postgres: dict[str, str], tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """A run of two clips ends well, and its task runs stand in PostgreSQL, closed to strangers."""
    manifest, root, log = make_clips(tmp_path / "in", 2, prompts=1), tmp_path / "run", tmp_path / "log"
    assert run(manifest, root, tiny_pipeline_folder, postgres, log).wait(300) == 0, log.read_text()[-3000:]
    place = ["psql", "-h", "127.0.0.1", "-p", postgres["POSTGRES_PORT"], "-U", "prefect", "-w", "prefect", "-At", "-c"]
    query = [
        *place,
        "select count(*) from task_run where state_type = 'COMPLETED' and name similar to '(encode|invert|edit) %'",
    ]
    password = Path(postgres["POSTGRES_FOLDER"], "password").read_text().strip()
    deadline, found = time.monotonic() + 30, "0"
    while int(found) < 6 and time.monotonic() < deadline:
        told = subprocess.run(query, env=os.environ | {"PGPASSWORD": password}, capture_output=True, text=True)
        found = told.stdout.strip() or "0"
        time.sleep(0.5)
    assert int(found) >= 6, told.stderr
    refused = subprocess.run(query, env=os.environ | {"PGPASSWORD": "wrong"}, capture_output=True, text=True)
    assert refused.returncode != 0 and "password authentication failed" in refused.stderr

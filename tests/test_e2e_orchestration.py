"""Runs whose server dies, and what goes on after it: everything outside of the process under test is real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import counted
import pytest
from servers import Server, free_port, kill, server
from undisturbed import EDITS, Undisturbed

from cogvideo_core.shapes.make import make_clips

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("servers"), pytest.mark.timeout(1200)]
FAST = ["--set", "inversion.method=fixed_point", "--set", "inversion.steps=4", "--set", "inversion.gate=off"]


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[Server]:
    """A server, not started yet; what its clients compute is noted below its folder."""
    with server(tmp_path, **counted.noting(tmp_path / "counted")) as made:
        yield made


def run(options: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", "run", *options]
    with open(log, "ab") as sink:
        return subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)


def edits(root: Path) -> int:
    return len(list(root.glob("edits/*/*/commit.json")))


def wait_for(root: Path, count: int) -> None:
    deadline = time.monotonic() + 600
    while edits(root) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert edits(root) >= count


def test_flow_and_server_are_killed(noted: Server, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """SIGKILL of the flow's process at 20 of 80 edits; of the server at 40, and of the flow that goes on without it.
    After both are started again the dataset is that of an undisturbed run, byte for byte, and of the evaluations of all
    processes, killed ones too, at most one batch's for each kill of a flow were made twice."""
    root, log, notes = tmp_path / "run", tmp_path / "log", tmp_path / "counted"
    options = undisturbed.options(root)
    noted.start()
    flow = run(options, noted.environment, log)
    wait_for(root, 20)
    kill(flow)
    kept = edits(root)
    assert 20 <= kept < EDITS
    flow = run(options, noted.environment, log)
    wait_for(root, max(40, kept + 4))
    noted.kill()
    time.sleep(5)  # the flow goes on for as long as its client tries again; whether it ends is its own affair
    kill(flow)
    assert edits(root) < EDITS
    noted.start()
    assert run(options, noted.environment, log).wait(600) == 0, log.read_text()[-3000:]
    undisturbed.assert_same(root)
    spent = counted.evaluations(notes)
    assert undisturbed.evaluations <= spent <= undisturbed.evaluations + 2 * undisturbed.a_batch


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
    options = [str(manifest), "--output", str(root), "--model", str(tiny_pipeline_folder), *FAST]
    assert run(options, postgres, log).wait(300) == 0, log.read_text()[-3000:]
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

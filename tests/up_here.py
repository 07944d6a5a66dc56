"""A server, worker and gallery of a test's own, brought up by the command, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from servers import own_database

from flows.server import processes

Record = dict[str, Any]


def wait_for(what: Callable[[], Any], timeout_s: float) -> Any:
    """What it gives once that is true; fails when it never is."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s} s in vain")


def kill_family(process: psutil.Process) -> None:
    """SIGKILL to a process and all below it, as when a machine goes."""
    for one in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


class Here:
    """`up` in a folder: commands run there, a client of its API, and what it has started."""

    wait_for, kill_family = staticmethod(wait_for), staticmethod(kill_family)

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.port = folder, two_free_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = folder / "prefect" / "cogvideo-edit"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
        root = str(Path(__file__).parents[1])  # the code under test, whichever is installed
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self.environment = kept | own | {"PYTHONPATH": path} | environment
        self.started: list[subprocess.Popen[bytes]] = []

    def cli(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command, own = [sys.executable, "-m", "flows.cli", *arguments], self.environment | more
        return subprocess.run(
            command, cwd=self.folder, env=own, capture_output=True, text=True, timeout=600, check=False
        )

    def up(self, *options: str) -> str:
        done = self.cli("up", "--port", str(self.port), *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self) -> Record:
        with environment(PREFECT_HOME=self.environment["PREFECT_HOME"]):
            return processes.read_state()

    def process(self, name: str) -> psutil.Process:
        found = processes.alive(self.state()["processes"][name])
        assert found is not None
        return found

    def another_worker(self) -> psutil.Process:
        """One more process that takes runs from the pool, one at a time."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cogvideo", "--type", "process"]
        command += ["--limit", "1"]
        own = self.environment | {"PREFECT_API_URL": f"{self.url}/api"}
        with open(self.folder / f"worker-{len(self.started)}.log", "ab") as log:
            started = subprocess.Popen(command, cwd=self.folder, env=own, stdout=log, stderr=log)
        self.started.append(started)
        wait_for(lambda: b" started!" in Path(log.name).read_bytes(), 120)
        return psutil.Process(started.pid)

    def client(self, auth: str | None = None) -> SyncPrefectClient:
        return SyncPrefectClient(f"{self.url}/api", auth_string=auth)

    def deployment(self, client: SyncPrefectClient, name: str) -> UUID:
        return next(found.id for found in client.read_deployments() if found.name == name)

    def run(self, client: SyncPrefectClient, name: str, **parameters: Any) -> UUID:
        """Asks for a run, as the form does, and returns its id."""
        return client.create_flow_run_from_deployment(self.deployment(client, name), parameters=parameters).id

    def ended(self, client: SyncPrefectClient, run: UUID, timeout_s: float = 240) -> Any:
        """The run, once it is over; for how long it may take, see the caller."""
        wait_for(lambda: state_of(client, run).is_final(), timeout_s)
        return client.read_flow_run(run)


@contextlib.contextmanager
def brought_up(folder: Path, *options: str, **environment: str) -> Iterator[Here]:
    """Up for as long as the body runs; afterwards nothing that was started is left."""
    database = {} if "--database" in options else own_database()
    here = Here(folder, **database, **environment)
    try:
        here.up(*options)
        yield here
    finally:
        family = [found for entry in here.state()["processes"].values() if (found := processes.alive(entry))]
        family += [psutil.Process(process.pid) for process in here.started if process.poll() is None]
        here.cli("down")
        for process in here.started:
            if process.poll() is None:
                kill_family(psutil.Process(process.pid))
            process.wait()
        assert not [process for process in family if process.is_running() and process.status() != "zombie"]


def two_free_ports() -> int:
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                other.bind(("127.0.0.1", port + 1))
                return port


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def state_of(client: SyncPrefectClient, run: UUID) -> Any:
    return client.read_flow_run(run).state

"""Prefect servers of the tests: started, killed and started again; with a database of their own, SQLite's or on the
PostgreSQL that COGVIDEO_E2E_DATABASE names, as postgresql+asyncpg://user:password@host:port/database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg

DATABASE = "COGVIDEO_E2E_DATABASE"


def own_database() -> dict[str, str]:
    """What a server's environment says of its database: a new one for each server; nothing where it is SQLite's."""
    if not (given := os.environ.get(DATABASE)):
        return {}
    name = f"e2e_{uuid.uuid4().hex}"
    asyncio.run(_create(given.replace("+asyncpg", ""), name))
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"{given.rpartition('/')[0]}/{name}"}


async def _create(url: str, name: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process that leads a session, and to all it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Server:
    """A server that may be killed and started again: always the same port and database. `environment` is that of its
    clients."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.port = folder, free_port()
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = kept | own | {"PREFECT_API_URL": self.url} | own_database() | environment
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with open(self.folder / "server.log", "ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.started.append(process)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            time.sleep(0.3)
        raise AssertionError(f"the server did not start; see {self.folder}/server.log")

    def kill(self) -> None:
        kill(self.started[-1])


@contextlib.contextmanager
def server(folder: Path, **environment: str) -> Iterator[Server]:
    """Not started yet; killed in the end."""
    made = Server(folder, **environment)
    try:
        yield made
    finally:
        for process in made.started:
            kill(process)


@contextlib.contextmanager
def harness(folder: Path) -> Iterator[None]:
    """Flows of this process run against a server of its own: Prefect's harness, or its like on PostgreSQL."""
    from prefect.context import _temporary_global_settings_context, get_settings_context
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    if not os.environ.get(DATABASE):
        with prefect_test_harness(server_startup_timeout=60):
            yield
        return
    with server(folder) as ours:
        ours.start()
        with (
            temporary_settings({PREFECT_API_URL: ours.url}),
            _temporary_global_settings_context(get_settings_context()),
        ):
            yield

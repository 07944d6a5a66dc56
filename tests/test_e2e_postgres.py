"""With the server's runs in PostgreSQL: every end-to-end test that talks to a server, and a run of many batches."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from servers import DATABASE, free_port

from flows.server import postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
HERE = Path(__file__).parent
WITH_SERVERS = ("campaign", "dask", "demo", "operations", "orchestration", "ui")


@pytest.fixture
def database() -> Iterator[str]:
    """URL of a PostgreSQL of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's folders are closed to other accounts
    try:
        yield postgres.start(folder, free_port())
    finally:
        postgres.stop(folder)
        shutil.rmtree(folder)


async def flow_runs(url: str) -> dict[str, int]:
    """How many stand in each of the servers' databases."""
    counts, place = {}, url.replace("+asyncpg", "").rpartition("/")[0]
    connection = await asyncpg.connect(f"{place}/postgres")
    names = await connection.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'e2e%'")
    await connection.close()
    for (name,) in names:
        connection = await asyncpg.connect(f"{place}/{name}")
        counts[name] = await connection.fetchval("SELECT count(*) FROM flow_run")
        await connection.close()
    return counts


def test_the_end_to_end_tests_on_postgres(database: str) -> None:
    """They pass, and each server that they started kept its runs there, in a database of its own."""
    files = [str(HERE / f"test_e2e_{name}.py") for name in WITH_SERVERS]
    command = [sys.executable, "-m", "pytest", "-m", "e2e", *files]
    told = subprocess.run(command, cwd=HERE.parent, env=os.environ | {DATABASE: database}, capture_output=True)
    assert told.returncode == 0, told.stdout.decode()[-8000:]
    counts = asyncio.run(flow_runs(database))
    assert len(counts) >= len(WITH_SERVERS) and all(counts.values()), counts


def test_a_flow_of_60_000_task_runs_stays_as_large_as_it_was(database: str) -> None:
    """20,000 batches of real task runs in 61 waves: the process grows by less than 100 MB after the first."""
    command = [sys.executable, str(HERE / "many_batches.py"), "20000"]
    told = subprocess.run(command, env=os.environ | {DATABASE: database}, stdout=subprocess.PIPE, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    assert (found["clips"], found["succeeded"], found["waves"]) == (20_000, 20_000, 61)
    assert found["grown_most_mb"] < 100, told.decode()

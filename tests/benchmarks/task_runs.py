"""How many empty task runs a second a Prefect server writes down, on SQLite and on PostgreSQL.

    python tests/benchmarks/task_runs.py            # on the server of PREFECT_API_URL; without one, on Prefect's own
    python tests/benchmarks/task_runs.py --postgres # on one that `cogvideo-edit up` starts

benchmarks/orchestration.py measures both beside its own figures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def task_runs_a_second(count: int = 400) -> float:
    """Empty task runs of one flow, until the server has all of them written down as completed."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.task_runners import ThreadPoolTaskRunner

    @task(cache_policy=NO_CACHE, persist_result=False)
    def nothing() -> None:
        return None

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
    def many() -> None:
        for future in [nothing.submit() for _ in range(count)]:
            future.wait()

    started = time.perf_counter()
    state = many(return_state=True)
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        while True:
            seen = 0
            for offset in range(0, count, 200):
                runs = client.read_task_runs(flow_run_filter=wanted, limit=200, offset=offset)
                seen += sum(run.state is not None and run.state.is_final() for run in runs)
            if seen >= count:
                return count / (time.perf_counter() - started)
            time.sleep(0.2)


def on_postgres(folder: Path) -> float | None:
    """Task runs a second of a server that `cogvideo-edit up --database postgres` starts; None without PostgreSQL."""
    port = 4000 + os.getpid() % 1_000
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    own |= {"POSTGRES_FOLDER": tempfile.mkdtemp(prefix="postgres-"), "POSTGRES_PORT": str(port + 1_000)}
    os.chmod(own["POSTGRES_FOLDER"], 0o755)
    cli = [sys.executable, "-m", "flows.cli"]
    started = [*cli, "up", "--database", "postgres", "--port", str(port)]
    try:
        if subprocess.run(started, env=kept | own, check=False).returncode:
            return None
        there = kept | own | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        command = [sys.executable, __file__]
        return float(subprocess.run(command, env=there, capture_output=True, text=True, check=True).stdout.split()[-1])
    finally:
        subprocess.run([*cli, "down"], env=kept | own, check=True)
        shutil.rmtree(own["POSTGRES_FOLDER"], ignore_errors=True)


def main() -> None:
    if "--postgres" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(on_postgres(Path(folder)))
        return
    print(task_runs_a_second())


if __name__ == "__main__":
    main()

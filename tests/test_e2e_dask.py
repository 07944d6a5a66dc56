"""A run on a real Dask cluster: scheduler and two worker processes on loopback, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import counted
import pytest
from distributed import Client
from undisturbed import CLIPS, EDITS, PROMPTS, Undisturbed

from cogvideo_core.dataset import videos
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec
from cogvideo_core.shapes.make import make_clips
from flows.edit_dataset import edit_dataset
from flows.engines import local_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("servers"), pytest.mark.timeout(900)]
Record = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]], Path]]:
    """(address, the two workers' processes, the folder in which they note what they do)."""
    file, notes = tmp_path / "scheduler.json", tmp_path / "counted"
    settings = counted.noting(notes) | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "null"}
    settings |= {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"}

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments]
        return subprocess.Popen(command, env=os.environ | settings, cwd=tmp_path, stderr=subprocess.DEVNULL)

    here = ("--host", "127.0.0.1", "--scheduler-file", str(file))
    started = [start("scheduler", "--port", "0", "--no-dashboard", *here)]
    while not file.exists():
        time.sleep(0.1)
    options = ("--nthreads", "2", "--resources", "GPU=1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
    for _ in range(2):
        started.append(start("worker", *here, *options))
    address = json.loads(file.read_text())["address"]
    with Client(address) as client:  # with one of them late, the other would do the first batches alone
        client.wait_for_workers(2, timeout=120)
    yield address, started[1:], notes
    for process in started:
        process.kill()
        process.wait()


def test_a_worker_that_is_killed_costs_its_batches_only(undisturbed: Undisturbed, cluster: Any, tmp_path: Path) -> None:
    """The run completes with all 80 edits; each worker loads the model once and works on two clips at a time, no more;
    nothing that was committed before the kill is made again, but for the edits of the batches that the dead worker was
    in; the dataset is that of an undisturbed run on threads, byte for byte."""
    address, workers, notes = cluster
    before: list[Record] = []

    def in_the_middle() -> bool:
        rows = counted.notes(notes)
        loaded = any("loads" in row and row["pid"] == workers[0].pid for row in rows)
        return loaded and sum(row.get("stage") == "edits" for row in rows) >= 20

    def kill() -> None:
        while not in_the_middle():
            time.sleep(0.05)
        workers[0].send_signal(signal.SIGKILL)
        before.extend(counted.notes(notes))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    groups = undisturbed.groups(tmp_path / "dask", engine="dask", dask_address=address, batches_in_flight=6)
    counts: Any = edit_dataset(**groups)
    killer.join(1)
    assert workers[0].poll() == -signal.SIGKILL and workers[1].poll() is None
    assert (counts["clips"], counts["failed"], counts["dataset_edits"]) == (CLIPS, 0, EDITS)
    rows, dead = counted.notes(notes), workers[0].pid
    loads = Counter(row["pid"] for row in rows if "loads" in row)
    assert loads == {worker.pid: 1 for worker in workers}
    assert counted.most_at_a_time(rows) == 2
    made = Counter(row["key"] for row in rows if row.get("stage") == "edits")
    twice = {key for key, times in made.items() if times > 1}
    assert {row["pid"] for row in before if row.get("key") in twice} <= {dead} and len(twice) < 2 * PROMPTS
    spent = counted.evaluations(notes)  # two tasks at a time on the dead worker
    assert undisturbed.evaluations <= spent <= undisturbed.evaluations + 2 * undisturbed.a_batch
    undisturbed.assert_same(tmp_path / "dask")


def test_workers_keep_memory_for_the_next_tensor() -> None:
    """Workers of a cluster of one's own have the C library's own way with freed memory, not Dask's."""
    with local_cluster(1) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=120)
        (found,) = client.run(lambda: dict(os.environ)).values()
        assert "MALLOC_TRIM_THRESHOLD_" not in found and found["OMP_NUM_THREADS"] == "1"


def test_a_cluster_of_its_own(
    prefect_harness: None, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an address the run starts its own workers, one process each, and ends them. They copy the videos too."""

    def not_here(*_: Any) -> Any:
        raise AssertionError("videos were copied by the process of the flow")

    monkeypatch.setattr(videos, "BATCH", 3)
    monkeypatch.setattr(videos, "placed_here", not_here)  # in this process alone
    manifest = make_clips(tmp_path / "in", 2, prompts=1)
    counts: Any = edit_dataset(
        dataset=DatasetSpec(source=str(manifest)),
        model=ModelSpec(path=str(tiny_pipeline_folder)),
        inversion=InversionSpec(method="fixed_point", steps=4, gate="off"),
        output=OutputSpec(root=str(tmp_path / "run")),
        engine=EngineSpec(engine="dask", dask_workers=2),
    )
    assert (counts["failed"], counts["dataset_edits"]) == (0, 2)
    assert len(list((tmp_path / "run/dataset/videos").iterdir())) == 4
    head = json.loads((tmp_path / "run/plan/waves/00000.jsonl").read_text().splitlines()[0])
    assert set(head["loads"].values()) == {1}
    assert not any(worker.endswith(f":{os.getpid()}") for worker in head["loads"])

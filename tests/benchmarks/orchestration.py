"""What orchestration costs: the flow against a bare loop over the same core functions on the same clips.

    python tests/benchmarks/orchestration.py                 # the figures of docs/orchestration.md
    python tests/benchmarks/orchestration.py --clips 8 --skip dask,plan

Loop and flow edit the same clips with the same model, two clips in flight, one torch thread. A run is timed from its
first task's start to its last task's end, server warm, models loaded: in the loop from the first stage of the first
clip to the last of the last. Overhead is the flow's seconds over the loop's, less one. Busy is the union of the
intervals inside the model's lock over the wall time. Task runs a second are those of an empty task, submitted from 8
threads. The last line is JSON; a figure that was not measured is null.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

Record = dict[str, Any]


def groups(root: Path, folder: Path, args: argparse.Namespace, engine: Record) -> Record:
    from cogvideo_core.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec

    shared = {"clips_per_batch": args.batch, "batches_in_flight": 2, "edits_per_batch": args.prompts}
    return {
        "dataset": DatasetSpec(source=str(folder / "manifest.jsonl")),
        "model": ModelSpec(),
        "inversion": InversionSpec(steps=args.steps),
        "recipe": RecipeSpec(),
        "output": OutputSpec(root=str(root), gallery=False),
        "engine": EngineSpec(**(shared | engine)),
    }


def bare_loop(given: Record) -> tuple[float, float, float, int]:
    """(seconds, busy seconds, CPU seconds, edits) of the same stages with two batches in flight, and nothing else."""
    from cogvideo_core import clips, encoding, plan, plan_tables, prompts
    from cogvideo_core.model import loaded
    from tasks.settings import Settings

    settings = Settings(**given)
    job = settings.work()
    root = settings.output.root
    plan_tables.write_plan(root, plan.planned_clips(job.dataset, job.model), job.recipe, job.engine)
    todo = list(plan_tables.read_batches(root))
    wanted = [text for batch in todo for r in batch for text in (r["source_prompt"], *r["target_prompts"])]
    prompts.embed_missing(job.model, job.ledger, [job.recipe.negative_prompt, *wanted])

    def through(batch: list[Record]) -> int:
        edits = 0
        encoded = [encoding.encode_clip(job, record) for record in batch]
        inverted = [clips.invert_clip(job, record) for record in encoded]
        for record in inverted:
            edits += len(clips.edit_clip(job, record)["edits"])
        return edits

    started, busy, cpu = time.perf_counter(), loaded(job.model.spec).busy_s, cpu_seconds()
    with ThreadPoolExecutor(2) as pool:
        edits = sum(pool.map(through, todo))
    return time.perf_counter() - started, job.model.busy_s - busy, cpu_seconds() - cpu, edits


def cpu_seconds() -> float:
    """Of this process and what it has started, ffmpeg and workers included."""
    here = psutil.Process()
    times = [here.cpu_times(), *(child.cpu_times() for child in here.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def timed_flow(given: Record) -> tuple[float, float, float, Record]:
    """(seconds from the first batch's task start to the last one's end, busy seconds, CPU seconds, counts)."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from cogvideo_core.model import busy_seconds
    from flows.edit_dataset import edit_dataset

    busy, cpu = busy_seconds(), cpu_seconds()
    state = edit_dataset(**given, return_state=True)
    counts, cpu, busy = state.result(), cpu_seconds() - cpu, busy_seconds() - busy
    time.sleep(3)  # the server writes task runs down a little later
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        runs = client.read_task_runs(flow_run_filter=wanted, limit=200)
    batches = [run for run in runs if run.name.split()[0] in ("encode", "invert", "edit")]
    first, last = min(run.start_time for run in batches), max(run.end_time for run in batches)
    return (last - first).total_seconds(), busy, cpu, counts


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
        command = [sys.executable, __file__, "--task-runs"]
        return float(subprocess.run(command, env=there, capture_output=True, text=True, check=True).stdout.split()[-1])
    finally:
        subprocess.run([*cli, "down"], env=kept | own, check=True)
        shutil.rmtree(own["POSTGRES_FOLDER"], ignore_errors=True)


def plan_rows(rows: int, folder: Path) -> Record:
    """A plan of so many clips that lie on this disk and are not opened: seconds and peak memory of a process."""
    (folder / "clips").mkdir(parents=True)
    with open(folder / "manifest.jsonl", "w") as manifest:
        for part in range(0, rows, 1_000):  # hard links: as many names as clips, little room
            place = folder / "clips" / f"{part // 1_000:04d}"
            place.mkdir()
            (place / "0.mp4").write_bytes(b"not opened")
            for n in range(part, min(part + 1_000, rows)):
                if n > part:
                    os.link(place / "0.mp4", place / f"{n - part}.mp4")
                row = {"clip": f"clips/{place.name}/{n - part}.mp4", "source_prompt": f"clip {n}"}
                manifest.write(json.dumps(row | {"target_prompts": ["a red circle", "a blue square"]}) + "\n")
    code = (
        "import resource, sys, time\n"
        "from cogvideo_core import plan, plan_tables\n"
        "from cogvideo_core.model import load\n"
        "from cogvideo_core.specs import *\n"
        "model, started = load(ModelSpec()), time.perf_counter()\n"
        "found = plan.planned_clips(DatasetSpec(source=sys.argv[1]), model)\n"
        "planned = plan_tables.write_plan(sys.argv[2], found, RecipeSpec(), EngineSpec())\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(planned['clips'], time.perf_counter() - started, peak)"
    )
    arguments = [sys.executable, "-c", code, str(folder / "manifest.jsonl"), str(folder / "run")]
    clips, seconds, mib = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    return {"plan_rows": int(clips), "plan_s": round(float(seconds), 1), "plan_peak_mib": round(float(mib))}


def line(name: str, seconds: float, edits: int, busy: float | None, cpu: float) -> None:
    share = "" if busy is None else f", model busy {busy / seconds:.1%}"
    print(
        f"{name}: {seconds:.1f} s, {60 * edits / seconds:.1f} edits a minute{share}, {cpu:.1f} CPU seconds", flush=True
    )


def overheads(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float]]:
    """Loop first, then each engine, on roots of their own."""
    loop_s, busy, cpu, edits = bare_loop(groups(folder / "loop", folder, args, {}))
    line("bare loop", loop_s, edits, busy, cpu)
    if "threads" not in args.skip:
        seconds, busy, cpu, counts = timed_flow(groups(folder / "threads", folder, args, {}))
        line("flow on threads", seconds, counts["edits_made"], busy, cpu)
        yield "overhead_threads", seconds / loop_s - 1
        yield "model_busy", busy / seconds
    if "dask" not in args.skip:
        from cogvideo_core.shapes.make import make_clips
        from flows.engines import local_cluster

        with local_cluster(1) as cluster:
            engine = {"engine": "dask", "dask_address": cluster.scheduler_address}
            make_clips(folder / "few", 1, args.prompts, seed=10_000)
            timed_flow(groups(folder / "warm", folder / "few", args, engine))  # the worker loads its model
            seconds, _, cpu, counts = timed_flow(groups(folder / "dask", folder, args, engine))
        line("flow on Dask, one worker", seconds, counts["edits_made"], None, cpu)
        yield "overhead_dask", seconds / loop_s - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8, help="clips a batch")
    parser.add_argument("--plan-rows", type=int, default=1_000_000)
    parser.add_argument("--skip", default="", help="of threads, dask, sqlite, postgres, plan; with commas")
    parser.add_argument("--task-runs", action="store_true", help="only these, on the server of PREFECT_API_URL")
    args = parser.parse_args()
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    if args.task_runs:
        print(task_runs_a_second())
        return
    torch.set_num_threads(1)
    found: Record = dict.fromkeys(("overhead_threads", "overhead_dask", "model_busy"))
    found |= dict.fromkeys(("task_runs_per_s_sqlite", "task_runs_per_s_postgres"))
    folder = Path(tempfile.mkdtemp(prefix="orchestration-"))
    try:
        measure(args, folder, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))


def measure(args: argparse.Namespace, folder: Path, found: Record) -> None:
    from prefect.testing.utilities import prefect_test_harness

    from cogvideo_core.shapes.make import make_clips

    if "plan" not in args.skip:
        found |= plan_rows(args.plan_rows, folder / "plan")
        print(
            f"plan of {found['plan_rows']:,} clips: {found['plan_s']} s, peak {found['plan_peak_mib']} MiB", flush=True
        )
    if "postgres" not in args.skip and (rate := on_postgres(folder)) is not None:
        found["task_runs_per_s_postgres"] = round(rate, 1)
        print(f"task runs a second on PostgreSQL: {rate:.1f}", flush=True)
    if {"threads", "dask", "sqlite"} <= set(args.skip.split(",")):
        return
    make_clips(folder, args.clips, args.prompts)
    with prefect_test_harness(server_startup_timeout=120):
        if "sqlite" not in args.skip:
            found["task_runs_per_s_sqlite"] = round(task_runs_a_second(), 1)
            print(f"task runs a second on SQLite: {found['task_runs_per_s_sqlite']}", flush=True)
        if not {"threads", "dask"} <= set(args.skip.split(",")):
            found |= {name: round(value, 4) for name, value in overheads(args, folder)}


if __name__ == "__main__":
    main()

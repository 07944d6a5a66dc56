"""What orchestration costs: the flow against a bare loop over the same core functions on the same clips.

    python tests/benchmarks/orchestration.py                 # the figures of docs/orchestration.md
    python tests/benchmarks/orchestration.py --clips 8 --skip dask,plan

Loop and flow edit the same clips with the same model, two batches in flight, one torch thread. A run is timed from its
first batch's first task to its last batch's last one, server warm, models loaded: in the loop from the first stage of
the first clip to the last of the last. Loop and flow take turns, `--repeat` times; overhead is the median of the flow's
seconds over those of the loop just before it, less one. Each side has its own loop:
  threads  a loop of two threads in this process, which is what the flow has;
  Dask     `--dask-workers` processes of a loop of two threads, each with its share of the batches, beside this process:
           as many processes, threads and loaded models as the cluster has workers.
Busy is the union of the intervals inside the model's lock, within the time of the run, over that time. CPU seconds are
those of the whole call, the server's and all processes' included, so the flow's hold its planning and collecting too.
Task runs a second are those of an empty task, submitted from 8 threads. The last line is JSON; a figure that was not
measured is null.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
import torch
from task_runs import on_postgres, task_runs_a_second

Record = dict[str, Any]


class Run(NamedTuple):
    """Of one run: when its batches began and ended, seconds since the epoch, and what they made."""

    began: float
    ended: float
    edits: int

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Clock:
    """The intervals in which models of this process compute."""

    def __init__(self) -> None:
        from cogvideo_core.models.model import VideoModel

        self.intervals: list[tuple[float, float]] = []
        computing = VideoModel.computing

        @contextlib.contextmanager
        def clocked(model: VideoModel) -> Iterator[None]:
            with computing(model):
                began = time.time()
                try:
                    yield
                finally:
                    self.intervals.append((began, time.time()))

        VideoModel.computing = clocked  # type: ignore[method-assign]

    def busy(self, run: Run) -> float:
        """Share of the run's time that lies in at least one interval."""
        covered, until = 0.0, run.began
        for began, ended in sorted(self.intervals):
            began, ended = max(began, until), min(ended, run.ended)
            covered += max(ended - began, 0.0)
            until = max(until, ended)
        return covered / run.seconds


def groups(root: Path, folder: Path, args: argparse.Namespace, engine: Record) -> Record:
    from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec

    shared = {"clips_per_batch": args.batch, "batches_in_flight": 2, "edits_per_batch": args.prompts}
    return {
        "dataset": DatasetSpec(source=str(folder / "manifest.jsonl")),
        "model": ModelSpec(),
        "inversion": InversionSpec(steps=args.steps),
        "recipe": RecipeSpec(),
        "output": OutputSpec(root=str(root), gallery=False),
        "engine": EngineSpec(**(shared | engine)),
    }


def prepare(given: Record) -> None:
    """What comes before the batches: plan and prompts."""
    from cogvideo_core.planning import plan, tables
    from cogvideo_core.stages import prompts
    from tasks.settings import Settings

    settings = Settings(**given)
    job, root = settings.work(), settings.output.root
    tables.write_plan(root, plan.planned_clips(job.dataset, job.model), job.recipe, job.engine)
    records = [record for batch in tables.read_batches(root) for record in batch]
    wanted = [text for r in records for text in (r["source_prompt"], *r["target_prompts"])]
    prompts.embed_missing(job.model, job.ledger, [job.recipe.negative_prompt, *wanted])


def bare_loop(given: Record, part: int = 0, parts: int = 1) -> Run:
    """The same stages with two batches in flight, and nothing else; `part` of `parts` of the batches."""
    from cogvideo_core.planning import tables
    from cogvideo_core.stages import edit as clips
    from cogvideo_core.stages import encode, trajectory
    from tasks.settings import Settings

    torch.set_num_threads(1)
    settings = Settings(**given)
    job = settings.work()

    def through(batch: list[Record]) -> int:
        encoded = [encode.encode_clip(job, record) for record in batch]
        inverted = [trajectory.invert_clip(job, record) for record in encoded]
        return sum(len(clips.edit_clip(job, record)["edits"]) for record in inverted)

    todo = list(tables.read_batches(settings.output.root))[part::parts]
    began = time.time()
    with ThreadPoolExecutor(2) as pool:
        edits = sum(pool.map(through, todo))
    return Run(began, time.time(), edits)


def looped(given: Record) -> Run:
    prepare(given)
    return bare_loop(given)


@contextlib.contextmanager
def loops_in_processes(count: int) -> Iterator[Callable[[Record], Run]]:
    """As many processes as there are Dask workers, which stay for the next loop with their models loaded."""
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pools = [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(count)]

        def run(given: Record) -> Run:
            prepare(given)
            parts = [pool.submit(bare_loop, given, part, count) for part, pool in enumerate(pools)]
            done = [part.result() for part in parts]
            return Run(min(r.began for r in done), max(r.ended for r in done), sum(r.edits for r in done))

        yield run


def cpu_seconds() -> float:
    """Of this process and what it has started, ffmpeg and workers included."""
    here = psutil.Process()
    times = [here.cpu_times(), *(child.cpu_times() for child in here.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def flow(given: Record) -> Run:
    """From the first batch's task start to the last one's end, as the server has them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from flows.edit_dataset import edit_dataset

    state = edit_dataset(**given, return_state=True)
    time.sleep(3)  # the server writes task runs down a little later
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        runs = client.read_task_runs(flow_run_filter=wanted, limit=200)
    batches = [run for run in runs if run.name.split()[0] in ("encode", "invert", "edit")]
    first, last = min(run.start_time for run in batches), max(run.end_time for run in batches)
    return Run(first.timestamp(), last.timestamp(), state.result()["edits_made"])


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
        "from cogvideo_core.planning import plan, tables\n"
        "from cogvideo_core.models.model import load\n"
        "from cogvideo_core.settings.specs import *\n"
        "model, started = load(ModelSpec()), time.perf_counter()\n"
        "found = plan.planned_clips(DatasetSpec(source=sys.argv[1]), model)\n"
        "planned = tables.write_plan(sys.argv[2], found, RecipeSpec(), EngineSpec())\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(planned['clips'], time.perf_counter() - started, peak)"
    )
    arguments = [sys.executable, "-c", code, str(folder / "manifest.jsonl"), str(folder / "run")]
    clips, seconds, mib = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    return {"plan_rows": int(clips), "plan_s": round(float(seconds), 1), "plan_peak_mib": round(float(mib))}


def told(name: str, run: Callable[[Record], Run], given: Record, clock: Clock | None) -> tuple[Run, float | None]:
    """The run and its busy share, which is known of this process alone; both printed."""
    cpu = cpu_seconds()
    done = run(given)
    cpu, busy = cpu_seconds() - cpu, clock.busy(done) if clock else None
    share = "" if busy is None else f", model busy {busy:.1%}"
    rate = 60 * done.edits / done.seconds
    print(f"{name}: {done.seconds:.1f} s, {rate:.1f} edits a minute{share}, {cpu:.1f} CPU seconds", flush=True)
    return done, busy


def pairs(
    name: str,
    loop: Callable[[Record], Run],
    args: argparse.Namespace,
    folder: Path,
    engine: Record,
    clock: Clock | None,
) -> Record:
    """Loop and flow in turn, on roots of their own: the median overhead, and the median busy share of the flow."""
    found, shares = [], []
    for turn in range(args.repeat):
        given = [groups(folder / f"{name}-{side}-{turn}", folder, args, engine) for side in ("loop", "flow")]
        bare, _ = told(f"loop for {name}", loop, given[0], clock)
        done, busy = told(f"flow on {name}", flow, given[1], clock)
        found.append(done.seconds / bare.seconds - 1)
        shares += [busy] if busy is not None else []
        print(f"overhead of {name}, pair {turn + 1} of {args.repeat}: {found[-1]:+.1%}", flush=True)
    return {f"overhead_{name}": median(found)} | ({"model_busy": median(shares)} if shares else {})


def on_threads(args: argparse.Namespace, folder: Path, few: Path) -> Record:
    clock = Clock()
    looped(groups(folder / "warm-loop", few, args, {}))  # loads the model
    flow(groups(folder / "warm-flow", few, args, {}))
    return pairs("threads", looped, args, folder, {}, clock)


def on_dask(args: argparse.Namespace, folder: Path, few: Path) -> Record:
    from flows.engines import local_cluster

    with local_cluster(args.dask_workers) as cluster, loops_in_processes(args.dask_workers) as loop:
        engine = {"engine": "dask", "dask_address": cluster.scheduler_address}
        engine["batches_in_flight"] = 2 * args.dask_workers
        flow(groups(folder / "warm-dask", few, args, engine | {"clips_per_batch": 1}))  # workers load their models
        loop(groups(folder / "warm-loops", few, args, {"clips_per_batch": 1}))
        return pairs("dask", loop, args, folder, engine, None)


def overheads(args: argparse.Namespace, folder: Path) -> Record:
    from cogvideo_core.shapes.make import make_clips

    make_clips(folder / "few", 2 * args.dask_workers, args.prompts, seed=10_000)
    found: Record = {}
    for name, measured in (("threads", on_threads), ("dask", on_dask)):
        if name not in args.skip.split(","):
            found |= measured(args, folder, folder / "few")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=3, help="pairs of loop and flow")
    parser.add_argument("--dask-workers", type=int, default=1, help="processes, two threads each")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8, help="clips a batch")
    parser.add_argument("--plan-rows", type=int, default=1_000_000)
    parser.add_argument("--skip", default="", help="of threads, dask, sqlite, postgres, plan; with commas")
    args = parser.parse_args()
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ["OMP_NUM_THREADS"] = "1"  # of workers; of this process it is too late for that
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
            found |= {name: round(value, 4) for name, value in overheads(args, folder).items()}


if __name__ == "__main__":
    main()

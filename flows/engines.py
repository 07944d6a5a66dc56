"""What runs the batches: threads of this process or workers of a Dask cluster, with one way to submit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.callables import get_call_parameters

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import EngineSpec
from tasks.stopping import event_name, stopping_with_the_body

Submit = Callable[..., "PrefectFuture[Any]"]
"""submit(task, *args, **kwargs): arguments may be futures of this engine."""

# Two tasks share a GPU: while one holds the model's lock, the other reads, decodes and writes.
A_TASK = {"GPU": 0.5}
DASK_SETTINGS = {
    "distributed.scheduler.worker-ttl": None,  # a worker that holds the GIL through a long step is not dead
    "distributed.scheduler.allowed-failures": 3,  # workers that one batch may take down before it is given up
    # Dask's own 65,536 gives every freed tensor back to the system: the small model took a third longer on a CPU
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
}


@contextlib.contextmanager
def engine_of(spec: EngineSpec) -> Iterator[Submit]:
    """Starts what the settings name; leaving it by an exception stops running tasks at their next step."""
    check_limit(spec)
    if spec.engine == "dask":
        with _dask(spec) as submit:
            yield submit
        return
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner()
    with runner, stopping_with_the_body():
        yield partial(_submit, runner)


def _submit(runner: Any, task: Any, *args: Any, **kwargs: Any) -> PrefectFuture[Any]:
    return runner.submit(task, get_call_parameters(task.fn, args, kwargs))


@contextlib.contextmanager
def _dask(spec: EngineSpec) -> Iterator[Submit]:
    try:
        from dask.base import annotate
        from distributed import Event
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise BadSpec('field engine.engine: dask needs prefect-dask; install "cogvideo-edit[dask]"') from error
    with contextlib.ExitStack() as stack:
        cluster = None if spec.dask_address else stack.enter_context(local_cluster(spec.dask_workers))
        runner = DaskTaskRunner(cluster=cluster, address=spec.dask_address or None)
        stack.enter_context(runner)
        name = event_name(flow_run.id)
        stack.enter_context(stopping_with_the_body(Event(name, client=runner.client)))
        workers = runner.client.scheduler_info(n_workers=-1)["workers"].values()
        has_gpus = any("GPU" in worker["resources"] for worker in workers)

        def submit(task: Any, *args: Any, **kwargs: Any) -> PrefectFuture[Any]:
            with annotate(resources=A_TASK) if has_gpus else contextlib.nullcontext():
                return _submit(runner, task, *args, **kwargs)

        yield submit


def workers_of(spec: EngineSpec) -> int:
    """How many models compute at a time: threads share one."""
    if spec.engine == "threads":
        return 1
    if spec.dask_address:
        from distributed import Client

        with Client(spec.dask_address, set_as_default=False) as client:
            return max(len(client.scheduler_info(n_workers=-1)["workers"]), 1)
    return spec.dask_workers or max(torch.cuda.device_count(), 1)


def in_flight(spec: EngineSpec) -> int:
    """Batches that are submitted at a time: two a worker, which computes one while it reads and writes another."""
    return spec.batches_in_flight or 2 * workers_of(spec)


def check_limit(spec: EngineSpec) -> None:
    """Raises BadSpec for a concurrency limit that the server does not have, which would fail each batch."""
    if not spec.concurrency_limit:
        return
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(spec.concurrency_limit)
        except ObjectNotFound as error:
            raise BadSpec(
                f"field engine.concurrency_limit: the server has no global concurrency limit "
                f"{spec.concurrency_limit!r}; create it, with two slots a GPU, or leave the field empty"
            ) from error


@contextlib.contextmanager
def local_cluster(workers: int = 0) -> Iterator[Any]:
    """A Dask cluster on this machine: a process for each GPU, which sees that one alone; else `workers` processes."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = torch.cuda.device_count()
    options: dict[str, Any] = {"nthreads": 2, "resources": {"GPU": 1}, "memory_limit": 0, "host": "127.0.0.1"}
    spec = {
        n: {"cls": Nanny, "options": options | ({"env": {"CUDA_VISIBLE_DEVICES": str(n % gpus)}} if gpus else {})}
        for n in range(workers or gpus or 1)
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": None, "host": "127.0.0.1"}}
    with (
        dask.config.set(DASK_SETTINGS),
        SpecCluster(workers=spec, scheduler=scheduler, silence_logs=30) as cluster,
    ):
        yield cluster

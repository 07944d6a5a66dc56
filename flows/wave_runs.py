"""Waves as flow runs of a deployment: started, found again after a campaign died, waited for, cancelled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

Record = dict[str, Any]
Running = dict[int, UUID]
"""wave -> its flow run."""
POLL_S, PAGE = 5.0, 200
AT_WORK = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]


def run_waves(deployment: str, shared: Record, tag: str, waves: Collection[int], in_flight: int) -> None:
    """Starts each wave, `in_flight` at a time, and waits until all are over, however they end.

    Waves under this tag that are already running are waited for and not started again. When the campaign is
    cancelled, so are they; when it fails they go on, and the next campaign finds them.
    """
    running = {wave: run_id for wave, run_id in at_work(tag).items() if wave in waves}
    todo = deque(wave for wave in waves if wave not in running)
    get_run_logger().info("%d waves are to be run, %d are at work already", len(todo), len(running))
    try:
        while todo or running:
            while todo and len(running) < in_flight:
                running[todo[0]] = ask(deployment, shared | {"wave": todo[0]}, tag)
                todo.popleft()
            for wave in ended(running):
                del running[wave]
    except Exception:
        raise
    except BaseException:
        cancel(running)
        raise


def ask(deployment: str, parameters: Record, tag: str) -> UUID:
    tags = [tag, f"wave {parameters['wave']}"]
    started: Any = run_deployment(deployment, parameters=parameters, timeout=0, tags=tags)
    return UUID(str(started.id))


def at_work(tag: str) -> Running:
    """The waves under this tag whose flow runs are not over, nor about to be cancelled."""
    with get_client(sync_client=True) as client:
        found: list[FlowRun] = []
        while part := _page(client, tag, len(found)):
            found += part
    return {run.parameters["wave"]: run.id for run in found if "wave" in run.parameters}


def _page(client: SyncPrefectClient, tag: str, offset: int) -> list[FlowRun]:
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]), state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK))
    )
    return client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=offset)


def ended(running: Running) -> list[int]:
    """Waits until a flow run is over; returns the waves of all that are. Asks again if the server fails."""
    while True:
        try:
            with get_client(sync_client=True) as client:
                over = [wave for wave, run_id in running.items() if _is_over(client, run_id)]
        except Exception as error:  # a hiccup of the server must not end waves of hours
            get_run_logger().warning("waves could not be looked at: %s", error)
            over = []
        if over:
            return over
        time.sleep(POLL_S)


def _is_over(client: SyncPrefectClient, run_id: UUID) -> bool:
    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:  # deleted by hand
        return True
    return state is not None and state.is_final()


def cancel(running: Running) -> None:
    """Cancels each wave, even if others fail."""
    with get_client(sync_client=True) as client:
        for wave, run_id in running.items():
            try:
                client.set_flow_run_state(run_id, Cancelling())
            except Exception as error:
                get_run_logger().warning("wave %d could not be cancelled: %s", wave, error)

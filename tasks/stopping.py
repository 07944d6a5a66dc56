"""Stopping between two steps of the model: what a cancelled or terminated flow asks of the tasks it has started."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_asked = threading.Event()
LOOK_EVERY_S = 1.0


class Stopped(BaseException):
    """The flow was cancelled. No Exception, so that no handler takes it for a clip's failure."""


@contextlib.contextmanager
def stopping_with_the_body(dask_event: Any = None) -> Iterator[None]:
    """When the body is left by an exception, SIGTERM's and Ctrl-C's included, every running task ends at its next step.

    `dask_event` is the `distributed.Event` that the tasks on a cluster look at. It outlives the flow, is named
    after it, and a retried flow keeps its name: so it is cleared first.
    """
    _asked.clear()
    if dask_event is not None:
        dask_event.clear()
    try:
        yield
    except BaseException:
        _asked.set()
        if dask_event is not None:
            dask_event.set()
        raise


def check(stage: str = "") -> None:
    """Raises Stopped once the flow has asked for it."""
    if _asked.is_set() or _asked_on_dask():
        raise Stopped("stopped between two steps; what is committed is kept, and a new run goes on from there")


def pause(seconds: float) -> None:
    """Waits, and raises Stopped as soon as the flow asks for it; on a cluster a second later at most."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _asked.wait(min(left, LOOK_EVERY_S))
        check()


def event_name(flow_run_id: object) -> str:
    return f"cogvideo-edit-stop-{flow_run_id}"


def _asked_on_dask() -> bool:
    """Whether this is a cluster's worker whose flow asked to stop. Asks the scheduler: a millisecond."""
    if "distributed" not in sys.modules:
        return False
    from distributed import Event, get_worker
    from prefect.runtime import flow_run

    try:
        get_worker()
    except ValueError:
        return False
    return bool(Event(event_name(flow_run.id)).is_set())

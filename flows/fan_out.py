"""Runs batches through their tasks, a bounded number in flight, so that the parent's memory stays flat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prefect.futures import PrefectFuture

from cogvideo_core.stages.failures import STAGES, failure, is_failure
from cogvideo_core.stages.whole import joined

Record = dict[str, Any]
TASKS = STAGES[STAGES.index("encode") :]  # the stages that have a task of their own
Futures = list["PrefectFuture[list[Record]]"]
Chain = Callable[[list[Record]], list[Futures]]
"""All futures of a batch, stage by stage: Prefect complains of one dropped unfinished."""


def in_window(batches: Iterable[list[Record]], chain: Chain, in_flight: int) -> Iterator[list[Record]]:
    """Submits each batch's chain, at most `in_flight` at a time, and yields the finished batches in their order."""
    waiting: deque[tuple[list[Record], list[Futures]]] = deque()
    for batch in batches:
        if len(waiting) >= in_flight:
            yield _finished(*waiting.popleft())
        waiting.append((batch, chain(batch)))
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(batch: list[Record], stages: list[Futures]) -> list[Record]:
    """The batch's records; a task that broke as a whole becomes one failure for each clip that had not failed yet."""
    done, broken = batch, None
    for stage, futures in zip(TASKS, stages, strict=False):
        found = list[Record]()
        for future in futures:  # all are waited for
            try:
                found += future.result()
            except Exception as error:  # the first task that broke has the cause; those after it never ran
                broken = broken or (stage, error)
        if broken is None:
            done = [_without_windows(record) for record in joined(found)]
    return [record if is_failure(record) or not broken else failure(record, *broken, 1) for record in done]


def _without_windows(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "windows"} if "windows" in record else record

"""Runs batches through their tasks, a bounded number in flight, so that the parent's memory stays flat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prefect.futures import PrefectFuture

from cogvideo_core.stages.failures import STAGES, failure, is_failure

Record = dict[str, Any]
TASKS = STAGES[STAGES.index("encode") :]  # the stages that have a task of their own
Futures = list["PrefectFuture[list[Record]]"]
Chain = Callable[[list[Record]], Futures]  # all futures of a batch: Prefect complains of one dropped unfinished


def in_window(batches: Iterable[list[Record]], chain: Chain, in_flight: int) -> Iterator[list[Record]]:
    """Submits each batch's chain, at most `in_flight` at a time, and yields the finished batches in their order."""
    waiting: deque[tuple[list[Record], Futures]] = deque()
    for batch in batches:
        if len(waiting) >= in_flight:
            yield _finished(*waiting.popleft())
        waiting.append((batch, chain(batch)))
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(batch: list[Record], futures: Futures) -> list[Record]:
    """The batch's records; a task that broke as a whole becomes one failure for each clip that had not failed yet."""
    done = batch
    for stage, future in zip(TASKS, futures, strict=False):
        try:
            done = future.result()
        except Exception as error:  # the first task that broke has the cause; those after it never ran
            return [record if is_failure(record) else failure(record, stage, error, 1) for record in done]
    return done

"""Batches through their chain of tasks, a bounded number in flight, so that the parent's memory stays flat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prefect.futures import PrefectFuture

Record = dict[str, Any]
Chain = Callable[[list[Record]], "PrefectFuture[list[Record]]"]


def in_window(batches: Sequence[list[Record]], chain: Chain, in_flight: int) -> Iterator[list[Record]]:
    """Submits each batch's chain, at most `in_flight` at a time, and yields the finished batches in their order."""
    waiting: deque[tuple[list[Record], PrefectFuture[list[Record]]]] = deque()
    for batch in batches:
        if len(waiting) >= in_flight:
            yield _finished(*waiting.popleft())
        waiting.append((batch, chain(batch)))
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(batch: list[Record], future: PrefectFuture[list[Record]]) -> list[Record]:
    """The batch's records; a task that broke as a whole becomes one failure a clip."""
    from cogvideo_core.failures import failure

    try:
        return future.result()
    except Exception as error:
        return [failure(record, "task", error, 1) for record in batch]

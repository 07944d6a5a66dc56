"""Who copies the videos when a dataset is collected: the workers of a cluster where there is one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any

from prefect.futures import PrefectFuture

from cogvideo_core.dataset import videos
from cogvideo_core.dataset.videos import Job, Outcome, Placing
from cogvideo_core.settings.specs import EngineSpec
from flows.engines import engine_of, in_flight
from tasks import work


def placing_by(spec: EngineSpec) -> Placing | None:
    """Has the engine's workers copy, a batch of videos each; None where this process's threads do it as well.

    Fewer videos than a batch are copied here: a cluster takes longer to start.
    """
    if spec.engine == "threads":
        return None

    def placing(root: str, linked: bool, batches: Iterator[list[Job]]) -> Iterator[tuple[list[Job], list[Outcome]]]:
        first = next(batches, [])
        if len(first) < videos.BATCH:
            yield from videos.placed_here(root, linked, iter([first]))
            return
        waiting: deque[tuple[list[Job], PrefectFuture[Any]]] = deque()
        with engine_of(spec) as submit:
            for batch in chain([first], batches):
                waiting.append((batch, submit(work.place_videos, root, linked, [list(job) for job in batch])))
                if len(waiting) >= in_flight(spec):
                    yield _placed(*waiting.popleft())
            while waiting:
                yield _placed(*waiting.popleft())

    return placing


def _placed(batch: list[Job], future: PrefectFuture[Any]) -> tuple[list[Job], list[Outcome]]:
    return batch, future.result()

"""One wave: the batches of a flow run through their chains of tasks, and their outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Literal

from prefect import get_run_logger

from cogvideo_core.dataset.outcomes import Spool, added, parked, tried_before
from cogvideo_core.errors import HopelessRun
from cogvideo_core.planning.tables import Planned, read_batches
from cogvideo_core.stages.failures import SameFailure
from cogvideo_core.stages.whole import shares, window_count
from cogvideo_core.stages.wishes import edits_by_recipe
from flows.engines import Submit, in_flight
from flows.fan_out import Chain, Futures, in_window
from flows.report import Progress
from tasks import progress, work
from tasks.settings import Settings

Record = dict[str, Any]
LastStage = Literal["edit", "invert"]


def refused_counts(planned: Planned) -> Record:
    """Rows that never became clips count as clips that failed."""
    refused, screened = planned["refused"], planned.get("screened", 0)
    return added({}, {"clips": refused, "failed": refused, "screened": screened})


def run_wave(settings: Settings, submit: Submit, wave: int, plan: str, last_stage: LastStage) -> Record:
    """Embeds the wave's prompts, then takes its batches through a bounded window. Returns the counts.

    Raises HopelessRun, after writing down what was done, once the first clips have all failed for one reason.
    """
    edits_wanted = last_stage == "edit"
    submit(work.embed_prompts, settings, wave, edits_wanted).result()
    clips, edits = _size(settings, wave)
    with Spool(last_stage) as spool, progress.bars(clips, edits if edits_wanted else 0), Progress(clips) as reported:
        chain, watch = _chain(settings, submit, last_stage), SameFailure(settings.engine.give_up_after)
        batches = takewhile(lambda _: not watch.sentence, _known(settings, wave))
        for batch in in_window(batches, chain, in_flight(settings.engine)):
            spool.add(batch)
            watch.add(batch)
            reported.advance(batch, spool.counts, get_run_logger())
        about = {"plan": plan, "wave": wave, "settings": settings.results, "gave_up": watch.sentence}
        spool.publish(settings.output.root, wave, about, settings.plan)
        took = spool.times()
        share = 100 * took["busy_s"] / max(took["worker_s"], 1e-9)
        get_run_logger().info("model busy %.0f %% of %.1f s", share, took["wall_s"])
        get_run_logger().info("models loaded: %d in %d processes", sum(spool.loads.values()), len(spool.loads))
        if watch.sentence:
            raise HopelessRun(watch.sentence)
        return spool.counts


def _batches(settings: Settings, wave: int) -> Iterator[list[Record]]:
    return read_batches(settings.output.root, {wave}, settings.plan)


def _size(settings: Settings, wave: int) -> tuple[int, int]:
    """Clips and edits of a wave."""
    sizes = [edits_by_recipe(settings.recipe, r).total() for batch in _batches(settings, wave) for r in batch]
    return len(sizes), sum(sizes)


def _known(settings: Settings, wave: int) -> Iterator[list[Record]]:
    """The wave's batches, with earlier runs' attempts at their clips."""
    tried, park_after = tried_before(settings.output.root), settings.engine.park_after
    for batch in _batches(settings, wave):
        yield [parked(record, tried, park_after) for record in batch]


def _chain(settings: Settings, submit: Submit, last_stage: LastStage) -> Chain:
    def chain(batch: list[Record]) -> list[Futures]:
        count = shares(sum(map(window_count, batch)), settings.engine)
        encoded = submit(work.named(work.encode_batch, batch), settings, batch)
        task, needed = work.named(work.invert_batch, batch), last_stage == "edit"
        inverted = [submit(task, settings, encoded, needed, share, count) for share in range(count)]
        edited = [submit(work.named(work.edit_batch, batch), settings, inverted)] if last_stage == "edit" else []
        return [[encoded], inverted, *([edited] if edited else [])]

    return chain

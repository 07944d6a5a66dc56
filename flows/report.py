"""What a run shows: log lines, the progress artifact, the summary and the error table. All user text is escaped."""

from __future__ import annotations

import os
import re
import time
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run
from pydantic import ValidationError

from cogvideo_core.dataset.gallery import markdown_table
from cogvideo_core.dataset.outcomes import Records, Times, counts_of, times_of
from cogvideo_core.dataset.tables import iter_table
from cogvideo_core.dataset.yields import SHOWN_REASONS, TALLIED, Tally
from cogvideo_core.errors import EditError, HopelessRun
from cogvideo_core.settings.specs import DatasetSpec, OutputSpec, RecipeSpec
from cogvideo_core.stages.failures import is_failure
from cogvideo_core.storage.uris import unsigned
from tasks import work
from tasks.settings import Settings

Record = dict[str, Any]
SHOWN_ERRORS = 100
GALLERY_URL, GALLERY_FOLDER = "COGVIDEO_EDIT_GALLERY_URL", "COGVIDEO_EDIT_GALLERY_FOLDER"  # `up` sets them


class TooFewSucceeded(EditError):
    """Fewer clips succeeded than `min_success_ratio` asks for."""

    kind = "bad_input"
    ran = True


def run_name() -> str:
    """The name of a flow run: dataset (or output), recipe, wave and date."""
    given = flow_run.parameters
    source = _field(given.get("dataset"), "source") or given.get("root")
    source = source or _field(given.get("output") or given.get("retention"), "root") or DatasetSpec().source
    recipe, wave = _recipe(given.get("recipe")), f"wave {given['wave']}" if "wave" in given else ""
    place, date = unsigned(str(source)).rstrip("/").split("/")[-1], f"{flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"
    return safe_name(" ".join(part for part in (place, recipe, wave, date) if part))


def _field(group: Any, name: str) -> Any:
    """A field of a group of settings, which is JSON if the UI started the run."""
    return group.get(name) if isinstance(group, dict) else getattr(group, name, None)


def _recipe(group: Any) -> str:
    try:
        return "" if group is None else RecipeSpec.model_validate(group).name
    except ValidationError:  # the run will fail of it with a better message
        return ""


def safe_name(text: str) -> str:
    """A run name of plain characters, whatever the source is called."""
    return re.sub(r"[^A-Za-z0-9 ._:-]+", "-", text)[:100]


class Progress:
    """The progress artifact of one run: the share of clips that are finished, failed ones included; its description
    has the counts, the rate and the time left."""

    def __init__(self, clips: int) -> None:
        self.clips, self.started = clips, time.monotonic()

    def __enter__(self) -> Progress:
        created = create_progress_artifact(progress=0.0, key="progress", description=f"{self.clips} clips")
        self.artifact = created if isinstance(created, UUID) else UUID(str(created))
        return self

    def advance(self, batch: list[Record], counts: Record, logger: Any) -> None:
        """After a batch; `counts` are those of all finished clips."""
        share, told = counts["clips"] / max(self.clips, 1), told_of(counts, self.clips, time.monotonic() - self.started)
        try:
            update_progress_artifact(self.artifact, progress=round(100 * share, 1), description=told)
        except Exception as error:  # a hiccup of the server must not end a run of hours
            logger.warning("progress could not be reported: %s", error)
        for record in batch:
            if is_failure(record):
                clip = record.get("source_id", "")[:8] or "without a key"
                logger.warning("clip %s failed in %s: %s", clip, record["stage"], record["message"])
        logger.info("%s", told)

    def __exit__(self, *exc: object) -> None:
        return None


def told_of(counts: Record, clips: int, seconds: float) -> str:
    """How far a run is: "12 of 40 clips finished, 48 edits, 1 failed; 3.2 clips a minute, about 9 minutes left"."""
    rate = 60 * counts["clips"] / max(seconds, 1e-9)
    left = (clips - counts["clips"]) / rate
    done = f"{counts['clips']} of {clips} clips finished, {counts['edits']} edits, {counts['failed']} failed"
    return f"{done}; {rate:.1f} clips a minute, about {left:.0f} minutes left"


def finish(
    settings: Settings, records: Records, counts: Record, collected: Record, gave_up: HopelessRun | None = None
) -> Record:
    """Artifacts, a closing line, and the verdict."""
    if gave_up is not None:  # the wave that ended the run has returned no counts
        counts = counts_of(records, "edit")
    told = f"{counts['succeeded']} of {counts['clips']} clips succeeded"
    times = times_of(records.heads())
    told += f"; {counts['edits_made']} edits made, {counts['edits_reused']} reused"
    create_markdown_artifact(key="summary", markdown=summary(settings, counts, collected, times), description=told)
    if collected.get("edits") or collected.get("rejected"):
        show_results(settings.output)
    if counts["failed"]:
        columns = ["clip", "stage", "error", "kind", "message", "attempts", "retryable"]
        table = markdown_table(list(islice(records.failures(), SHOWN_ERRORS)), columns)
        hidden = max(counts["failed"] - SHOWN_ERRORS, 0)
        more = f"\n\n{hidden} more in tables/errors.parquet" if hidden else ""
        text = f"## Clips that failed\n\n{table}{more}"
        create_markdown_artifact(key="errors", markdown=text, description=f"{counts['failed']} failed")
    get_run_logger().info("%s", told)
    if gave_up is not None:
        raise gave_up
    wanted = counts["clips"] - counts.get("screened", 0)
    if counts["succeeded"] < settings.engine.min_success_ratio * wanted:
        raise TooFewSucceeded(
            f"only {counts['succeeded']} of {wanted} clips succeeded, fewer than min_success_ratio "
            f"{settings.engine.min_success_ratio}; see {settings.output.root}/tables/errors.parquet"
        )
    return counts | {
        "root": settings.output.root,
        "dataset_edits": collected.get("edits", 0),
        **{name: collected.get(name, 0) for name in ("rejected", "surpassed", "stopped")},
    }


def show_results(output: OutputSpec) -> None:
    """Shows the results: a contact sheet, and a link to the gallery where `cogvideo-edit up` serves it."""
    logger = get_run_logger()
    try:
        picture = work.draw_contact_sheet(output)
    except Exception as error:  # a picture that can't be drawn must not fail a run that is done
        logger.warning("no contact sheet: %s", error)
        picture = ""
    if picture:
        text, about = f"## First clips\n\n![contact sheet]({picture})", "Sources on the left, edits beside them"
        create_markdown_artifact(key="contact-sheet", markdown=text, description=about)
    if link := gallery_link(output):
        create_link_artifact(key="gallery", link=link, link_text="Gallery", description="All clips, playing in sync")
        logger.info("gallery: %s", link)


def gallery_link(output: OutputSpec) -> str:
    """Where the gallery of a local root is served on this machine; "" where it is not."""
    served, folder = os.environ.get(GALLERY_URL, ""), os.environ.get(GALLERY_FOLDER, "")
    page = Path(output.root).absolute() / "index.html"
    if not (served and folder and output.gallery and page.is_relative_to(folder) and page.is_file()):
        return ""
    return f"{served}/{quote(page.relative_to(folder).as_posix())}"


def summary(settings: Settings, counts: Record, collected: Record, times: Times) -> str:
    """The run in one markdown table."""
    out = counts.get("screened", 0)  # waves of earlier versions counted none
    rows = [
        ("Source", unsigned(settings.dataset.source)),
        ("Model", settings.model.path),
        ("Recipe", ", ".join(each.name for each in settings.recipe.candidates)),
        ("Output", settings.output.root),
        ("Clips", f"{counts['succeeded']} of {counts['clips']} succeeded, {counts['clips_reused']} reused"),
        *([("Screened out", f"{out} clips, as screen.action asks for")] if out else []),
        ("Parked", f"{counts['parked']} left alone after {settings.engine.park_after} attempts"),
        ("Edits", f"{counts['edits_made']} made, {counts['edits_reused']} reused"),
        ("Model evaluations", counts["evaluations"]),
        ("Dataset", f"{collected.get('edits', 0)} edits of {collected.get('clips', 0)} clips"),
        *yield_rows(settings.output.root, collected),
        *(time_rows(counts, times) if times.waves else []),
    ]
    table = markdown_table([{"what": what, "value": str(value)} for what, value in rows], ["what", "value"])
    return f"## Edited dataset\n\n{table}"


def yield_rows(root: str, collected: Record) -> list[tuple[str, str]]:
    """What the judge left of all edits of the root, why, and what a kept one has cost."""
    if not (collected.get("rejected") or collected.get("surpassed")):
        return []
    tally = Tally()
    tally.add(iter_table(root, "edits", [*TALLIED]))
    kept, spent = max(collected["edits"], 1), collected.get("spent", 0)
    rows = [("Yield", tally.yielded.told)]
    rows += [(f"Yield of {name}", told) for name, told in tally.by_recipe()]
    rows += [("Rejected because", f"{reason}: {count}") for reason, count in tally.because.most_common(SHOWN_REASONS)]
    rows += [("Cost of a kept edit", f"{spent / kept:,.1f} model evaluations, all runs of this root counted")]
    saved = collected.get("saved_evaluations", 0)
    return rows + ([("Saved by early stops", f"{saved:,} model evaluations")] if saved else [])


def time_rows(counts: Record, times: Times) -> list[tuple[str, str]]:
    """How long the waves took and what for; waves that ran in parallel are summed as well."""
    minutes, loads = max(times.wall_s, 1e-9) / 60, sum(times.loads.values())
    stages = ", ".join(f"{stage} {seconds:,.1f} s" for stage, seconds in times.stages.items())
    return [
        ("Time", f"{times.wall_s:,.1f} s in {times.waves} {'wave' if times.waves == 1 else 'waves'}"),
        ("Rate", f"{counts['clips'] / minutes:,.1f} clips, {counts['edits_made'] / minutes:,.1f} edits made a minute"),
        ("Model busy", f"{100 * times.busy_s / max(times.worker_s, 1e-9):.0f} % of the time"),
        ("Models loaded", f"{loads} in {len(times.loads)} {'process' if len(times.loads) == 1 else 'processes'}"),
        ("Stages", f"{stages}, of all clips added up" if stages else "none did work"),
    ]

"""What a run tells: log lines, the progress artifact, the summary and the error table. All user text is escaped."""

from __future__ import annotations

import re
import time
from itertools import islice
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from cogvideo_core.errors import EditError
from cogvideo_core.failures import is_failure
from cogvideo_core.gallery import markdown_table
from cogvideo_core.outcomes import Records
from cogvideo_core.uris import unsigned
from tasks.settings import Settings

Record = dict[str, Any]
SHOWN_ERRORS = 100


class TooFewSucceeded(EditError):
    """Fewer clips succeeded than `min_success_ratio` asks for."""

    kind = "bad_input"
    ran = True


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
                logger.warning("failed in %s: %s", record["stage"], record["message"])
        logger.info("%s", told)

    def __exit__(self, *exc: object) -> None:
        return None


def told_of(counts: Record, clips: int, seconds: float) -> str:
    """How far a run is: "12 of 40 clips finished, 48 edits, 1 failed; 3.2 clips a minute, about 9 minutes left"."""
    rate = 60 * counts["clips"] / max(seconds, 1e-9)
    left = (clips - counts["clips"]) / rate
    done = f"{counts['clips']} of {clips} clips finished, {counts['edits']} edits, {counts['failed']} failed"
    return f"{done}; {rate:.1f} clips a minute, about {left:.0f} minutes left"


def finish(settings: Settings, records: Records, counts: Record, collected: Record) -> Record:
    """Artifacts, a closing line, and the verdict."""
    create_markdown_artifact(key="summary", markdown=summary(settings, counts, collected))
    if counts["failed"]:
        columns = ["clip", "stage", "error", "kind", "message", "attempts", "retryable"]
        table = markdown_table(list(islice(records.failures(), SHOWN_ERRORS)), columns)
        hidden = max(counts["failed"] - SHOWN_ERRORS, 0)
        more = f"\n\n{hidden} more in tables/errors.parquet" if hidden else ""
        create_markdown_artifact(key="errors", markdown=f"## Clips that failed\n\n{table}{more}")
    get_run_logger().info(
        "%(succeeded)d of %(clips)d clips succeeded; %(edits_made)d edits made, %(edits_reused)d reused", counts
    )
    if counts["succeeded"] < settings.engine.min_success_ratio * counts["clips"]:
        raise TooFewSucceeded(
            f"only {counts['succeeded']} of {counts['clips']} clips succeeded, fewer than min_success_ratio "
            f"{settings.engine.min_success_ratio}; see {settings.output.root}/tables/errors.parquet"
        )
    return counts | {"root": settings.output.root, "dataset_edits": collected.get("edits", 0)}


def summary(settings: Settings, counts: Record, collected: Record) -> str:
    """The run in one markdown table."""
    rows = [
        ("Source", unsigned(settings.dataset.source)),
        ("Model", settings.model.path),
        ("Recipe", settings.recipe.name),
        ("Output", settings.output.root),
        ("Clips", f"{counts['succeeded']} of {counts['clips']} succeeded, {counts['clips_reused']} reused"),
        ("Parked", f"{counts['parked']} left alone after {settings.engine.park_after} attempts"),
        ("Edits", f"{counts['edits_made']} made, {counts['edits_reused']} reused"),
        ("Model evaluations", counts["evaluations"]),
        ("Dataset", f"{collected.get('edits', 0)} edits of {collected.get('clips', 0)} clips"),
    ]
    table = markdown_table([{"what": what, "value": str(value)} for what, value in rows], ["what", "value"])
    return f"## Edited dataset\n\n{table}"

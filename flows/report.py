"""What a run tells: log lines, the progress artifact, the summary and the error table. All user text is escaped."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from cogvideo_core.errors import EditError
from cogvideo_core.failures import is_failure
from cogvideo_core.gallery import markdown_table
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
    """The progress artifact of one run: the share of clips that are finished, failed ones included."""

    def __init__(self, clips: int) -> None:
        self.clips, self.finished = clips, 0

    def __enter__(self) -> Progress:
        created = create_progress_artifact(progress=0.0, key="progress", description=f"{self.clips} clips")
        self.artifact = created if isinstance(created, UUID) else UUID(str(created))
        return self

    def advance(self, batch: list[Record], logger: Any) -> None:
        self.finished += len(batch)
        try:
            update_progress_artifact(self.artifact, progress=round(100 * self.finished / max(self.clips, 1), 1))
        except Exception as error:  # a hiccup of the server must not end a run of hours
            logger.warning("progress could not be reported: %s", error)
        for record in batch:
            if is_failure(record):
                logger.warning("failed in %s: %s", record["stage"], record["message"])
        logger.info("%d of %d clips finished", self.finished, self.clips)

    def __exit__(self, *exc: object) -> None:
        return None


def counts_of(records: list[Record], last_stage: str) -> Record:
    """Clips, failures, edits made and reused, and model evaluations of this run."""
    good = [record for record in records if not is_failure(record)]
    edits = [edit for record in good for edit in record.get("edits", [])]
    timings = [row for record in records for row in record.get("timings", [])]
    reused_clips = [r for r in good if all(row["reused"] for row in r.get("timings", []) if row["stage"] == last_stage)]
    return {
        "clips": len(records),
        "succeeded": len(good),
        "failed": len(records) - len(good),
        "clips_reused": len(reused_clips),
        "edits": len(edits),
        "edits_made": sum(not edit["reused"] for edit in edits),
        "edits_reused": sum(edit["reused"] for edit in edits),
        "evaluations": sum(row["evaluations"] for row in timings),
    }


def finish(settings: Settings, records: list[Record], collected: Record, last_stage: str) -> Record:
    """Artifacts, a closing line, and the verdict."""
    counts = counts_of(records, last_stage)
    create_markdown_artifact(key="summary", markdown=summary(settings, counts, collected))
    failures = [record for record in records if is_failure(record)]
    if failures:
        columns = ["clip", "stage", "error", "kind", "message", "attempts", "retryable"]
        table = markdown_table(failures[:SHOWN_ERRORS], columns)
        hidden = max(len(failures) - SHOWN_ERRORS, 0)
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
        ("Edits", f"{counts['edits_made']} made, {counts['edits_reused']} reused"),
        ("Model evaluations", counts["evaluations"]),
        ("Dataset", f"{collected.get('edits', 0)} edits of {collected.get('clips', 0)} clips"),
    ]
    table = markdown_table([{"what": what, "value": str(value)} for what, value in rows], ["what", "value"])
    return f"## Edited dataset\n\n{table}"

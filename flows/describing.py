"""Describing clips before a run: captions, target prompts and instructions, written down as a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from cogvideo_core.captions import manifest
from cogvideo_core.captions.asking import check_specs
from cogvideo_core.dataset.gallery import markdown_table
from cogvideo_core.errors import EditError, HopelessRun
from cogvideo_core.settings.caption_specs import CaptionSpec, InstructionSpec
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, ModelSpec
from cogvideo_core.stages.failures import SameFailure, is_failure
from cogvideo_core.storage.ledger import Ledger
from flows.report import SHOWN_ERRORS, run_name
from tasks.describing import Describing, describe_batch
from tasks.progress import bars

Record = dict[str, Any]
FIRST, BATCH = 10, 100  # clips of a task run: the first few tell soon whether anything works


class NothingDescribed(EditError):
    """A run that wrote no row."""

    kind = "bad_input"
    ran = True


@flow(name="describe-dataset", flow_run_name=run_name, validate_parameters=True)
def describe_dataset(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008 - frozen, and the form reads its defaults here
    model: ModelSpec = ModelSpec(),  # noqa: B008
    captions: CaptionSpec = CaptionSpec(),  # noqa: B008
    instructions: InstructionSpec = InstructionSpec(),  # noqa: B008
    screen: ScreenSpec = ScreenSpec(),  # noqa: B008
    out: Annotated[str, Field(min_length=1)] = "out/edits.jsonl",
    overwrite: bool = False,
) -> Record:
    """Writes a manifest with captions, target prompts and instructions, for a person to edit and a run to read.

    Args:
        out: The manifest, a .jsonl file or fsspec URL. Answers are kept beside it.
        overwrite: Also a manifest that was edited by hand.
    """
    check_describing(dataset, captions, instructions, out, overwrite)
    root = manifest.answers_of(out)
    groups = {"dataset": dataset, "model": model, "captions": captions, "instructions": instructions, "screen": screen}
    settings = Describing(**groups, answers=root)
    counts: Counter[str] = Counter()
    failed: list[Record] = []
    before, _ = manifest.base_of(dataset, out)
    try:
        with bars(None, None):
            records = _described(settings, counts, failed)
            rows = (row for record in records for row in manifest.rows_of(record, before))
            counts["rows"] = manifest.write_lines(out, rows, Ledger(root))
    finally:
        if not manifest.write_lines(manifest.errors_of(out), failed):
            manifest.remove(manifest.errors_of(out))
    _report(counts, failed, out)
    return {"clips": 0, "failed": 0, "rows": 0, "asked": 0} | counts | {"out": out}


def check_describing(
    dataset: DatasetSpec, captions: CaptionSpec, instructions: InstructionSpec, out: str, overwrite: bool
) -> None:
    """What can be refused before a clip is opened. Raises BadSpec, ForbiddenUri."""
    check_specs(captions, instructions)
    manifest.check_out(dataset, out, overwrite, Ledger(manifest.answers_of(out)))


def _described(settings: Describing, counts: Counter[str], failed: list[Record]) -> Iterator[Record]:
    """The clips that could be described, in order. Raises HopelessRun where the first ones all fail for one reason."""
    same = SameFailure(EngineSpec().give_up_after)
    for batch in _batches(manifest.clips_of(settings.dataset)):
        records = describe_batch(settings, batch)
        same.add(records)
        counts["clips"] += len(records)
        for record in records:
            if is_failure(record):
                counts["failed"] += 1
                failed.append(manifest.error_row(record))
                get_run_logger().warning("%s: %s", failed[-1]["clip"], record["message"])
            else:
                counts["asked"] += record["asked"]
                yield record
        get_run_logger().info("%(clips)d clips, %(failed)d of them failed", counts)
        if same.sentence:
            raise HopelessRun(same.sentence)


def _batches(clips: Iterable[Any]) -> Iterator[list[Record]]:
    waiting, size = iter(clips), FIRST
    while batch := [dict(clip) for clip in islice(waiting, size)]:
        yield batch
        size = BATCH


def _report(counts: Counter[str], failed: list[Record], out: str) -> None:
    """Artifacts and the verdict. Raises NothingDescribed."""
    told = f"{counts['rows']} rows of {counts['clips'] - counts['failed']} clips; {counts['asked']} questions asked"
    create_markdown_artifact(key="summary", markdown=f"## The manifest\n\n{told}", description=told)
    if failed:
        table = markdown_table(failed[:SHOWN_ERRORS], ["clip", "error", "message"])
        more = f"{counts['failed']} failed; all of them in errors.jsonl beside the answers"
        create_markdown_artifact(key="errors", markdown=f"## Clips that failed\n\n{table}\n\n{more}", description=more)
    get_run_logger().info("%s", told)
    if not counts["rows"]:
        first = failed[0]["message"] if failed else ""
        raise NothingDescribed(f"no clip could be described; see {manifest.errors_of(out)}, which begins with: {first}")

"""Judging what is committed already: with another judge, or again with other limits."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

from prefect import flow, get_run_logger
from pydantic import Field

from cogvideo_core.dataset.tables import read_table
from cogvideo_core.settings.judge_specs import JudgeSpec
from flows.engines import engine_of, in_flight
from flows.report import run_name, show_results
from flows.resuming import last_settings
from tasks import work

Record = dict[str, Any]
CLIPS = 16  # a batch


@flow(name="judge-dataset", flow_run_name=run_name, validate_parameters=True)
def judge_dataset(
    root: Annotated[str, Field(min_length=1)] = "out/demo",
    judge: JudgeSpec = JudgeSpec(),  # noqa: B008 - frozen, and the form reads its defaults here
) -> Record:
    """Judges every edit of a root that this judge has not judged yet, decides anew, and rebuilds dataset and gallery.

    Args:
        root: Folder or fsspec URL of the run whose edits are judged.
        judge: What is measured, and what an edit must reach.
    """
    settings, _ = last_settings(root)
    spec, logger = judge.resolved(settings.model.path), get_run_logger()
    rows = sorted(read_table(root, "edits"), key=lambda row: (row["source_key"], row["edit_key"]))
    clips = [list(edits) for _, edits in groupby(rows, key=lambda row: row["source_key"])]
    judged = 0
    with engine_of(settings.engine) as submit:
        waiting: list[Any] = []
        for start in range(0, len(clips) if spec.measures else 0, CLIPS):
            waiting.append(submit(work.judge_batch, root, spec, clips[start : start + CLIPS]))
            if len(waiting) >= in_flight(settings.engine):
                judged += waiting.pop(0).result()
        judged += sum(future.result() for future in waiting)
    counts = work.recollect(settings.output, judge)
    told = "%d edits judged, %d of %d are in the dataset, %d rejected"
    logger.info(told, judged, counts["edits"], len(rows), counts["rejected"])
    show_results(settings.output)
    return counts | {"judged": judged, "root": root}

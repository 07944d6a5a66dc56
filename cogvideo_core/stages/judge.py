"""The stage that judges edits: one unit for each edit and each set of judges, whose record holds the scores.

A judge never fails a clip: where it can't be used, edits stay unjudged, and the log says why.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cogvideo_core.errors import EditError
from cogvideo_core.media import video
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.storage.ledger import Commit, Ledger

FORMAT = 1
Record = dict[str, Any]
logger = logging.getLogger(__name__)


def judge_fingerprint(spec: JudgeSpec) -> str:
    """`judges.judge_fingerprint`, or "" where a judge can't be used: then nothing is judged, and the log says why."""
    return _fingerprint(spec.scoring.model_dump_json()) if spec.measures else ""


@lru_cache(maxsize=8)
def _fingerprint(scoring: str) -> str:
    from cogvideo_core.judging import folders  # imports torch, which collecting unjudged edits need not wait for

    try:
        return folders.judge_fingerprint(JudgeSpec.model_validate_json(scoring))
    except EditError as error:
        logger.warning("edits stay unjudged: %s", error)
        return ""


def judgement_spec(edit_key: str, judge: str) -> Record:
    return {"format": FORMAT, "edit": edit_key, "judge": judge}


def judgement(ledger: Ledger, edit_key: str, judge: str) -> dict[str, float] | None:
    """The scores of an edit by this judge; None where it is not judged."""
    commit = ledger.find("judgements", fingerprint(judgement_spec(edit_key, judge)), "none") if judge else None
    return dict(commit.record.get("scores", {})) if commit else None


def judge_edits(
    ledger: Ledger,
    spec: JudgeSpec,
    rows: Sequence[Mapping[str, Any]],
    source: Callable[[], np.ndarray],
    edits: Callable[[Mapping[str, Any]], np.ndarray],
) -> int:
    """Judges those of a clip's edits that are not judged yet; how many were. `spec` has no `auto`.

    rows: with edit_key, source_prompt and target_prompt. source, edits: the frames uint8 [F,H,W,3], asked for only
    where they are needed.
    """
    judge = judge_fingerprint(spec)
    todo = [row for row in rows if judge and judgement(ledger, row["edit_key"], judge) is None]
    if not todo:
        return 0
    from cogvideo_core.judging import judges  # imports transformers, which collecting need not wait for

    try:
        able = judges.loaded(spec)
    except EditError as error:
        logger.warning("edits stay unjudged: %s", error)
        return 0
    assert able is not None  # a fingerprint was made of it
    wishes = [judges.Wish(row["source_prompt"], row["target_prompt"]) for row in todo]
    for row, scores in zip(todo, able.scores(source(), [edits(row) for row in todo], wishes), strict=True):
        about = judgement_spec(row["edit_key"], judge)
        ledger.commit("judgements", fingerprint(about), {}, about, {"scores": scores})
    return len(todo)


def stored_frames(ledger: Ledger, commit: Commit, name: str, row: Mapping[str, Any]) -> np.ndarray:
    """The frames of a committed video, in the size and rate of its row: uint8 [F,H,W,3]."""
    limits, clip = video.Limits.of(DatasetSpec()), str(row["clip"])
    view = video.View(row["height"], row["width"], row["fps"], "stretch")
    with tempfile.TemporaryDirectory() as folder:
        path = ledger.fetch(commit, name, Path(folder))
        found = video.probe(path, clip, limits)
        return video.decode(path, clip, found, video.Window(0, 0.0, row["frames"]), view, limits)


def judge_stored(ledger: Ledger, spec: JudgeSpec, rows: Sequence[Mapping[str, Any]]) -> int:
    """Judges committed edits of one clip from their videos; how many were judged. Edits whose files are gone are left
    out. Raises StorageError, CorruptObject and ClipError."""
    commits = {row["edit_key"]: ledger.find("edits", row["edit_key"]) for row in rows}
    source = ledger.find("sources", rows[0]["source_key"])
    whole = [row for row in rows if commits[row["edit_key"]] is not None]
    if source is None or not whole:
        return 0

    def edits(row: Mapping[str, Any]) -> np.ndarray:
        commit = commits[row["edit_key"]]
        assert commit is not None
        return stored_frames(ledger, commit, "edit.mp4", row)

    return judge_edits(ledger, spec, whole, lambda: stored_frames(ledger, source, "source.mp4", whole[0]), edits)

"""The stage that judges edits: one unit for each edit and each set of judges, whose record holds the scores.

A judge never fails a clip: where it can't be used, edits stay unjudged, and the log says why.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cogvideo_core.errors import BadSpec, ClipError, EditError, EndpointUnreachable, StorageError
from cogvideo_core.judging import policy
from cogvideo_core.media import film, video
from cogvideo_core.media.regions import Mask
from cogvideo_core.media.window import spread
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.storage.ledger import Commit, Ledger

FORMAT = 1
CALIBRATION = "plan/calibration.json"
Record = dict[str, Any]
SILENCE_S = 600.0
_silent: dict[str, float] = {}  # endpoints that gave no answer, and until when this process does not ask them again
logger = logging.getLogger(__name__)


def judge_fingerprint(spec: JudgeSpec) -> str:
    """`folders.judge_fingerprint`, or "" where nothing is to be measured or a judge can't be used, which the log tells
    once a process."""
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


def scored(
    ledger: Ledger, spec: JudgeSpec, row: Mapping[str, Any], source: Callable[[], np.ndarray], edit: np.ndarray
) -> dict[str, float] | None:
    """The scores of an edit; None where its judges can't give them, which the log tells. `spec` has no `auto`.

    row: with edit_key, source_prompt and target_prompt. source, edit: frames uint8 [F,H,W,3]. Raises StorageError.
    """
    from cogvideo_core.judging import judges, vlm  # imports transformers, which collecting need not wait for

    try:
        wish = judges.Wish(row["source_prompt"], row["target_prompt"])
        if spec.vlm and time.monotonic() < _silent.get(spec.vlm, 0.0):
            return None
        (scores,) = judges.loaded(spec).scores(source(), [edit], [wish])
        if spec.vlm:
            stills = spread(edit, spec.frames)
            scores |= vlm.vlm_scores(spec, stills, wish._asdict(), partial(_known, ledger), partial(_keep, ledger))
    except EndpointUnreachable as error:
        _silent[spec.vlm] = time.monotonic() + SILENCE_S
        logger.warning("edits stay unjudged for the next %.0f minutes: %s", SILENCE_S / 60, error)
        return None
    except StorageError:
        raise
    except Exception as error:  # also what cv2 or a GPU without room raise: an edit is worth more than its scores
        why = error if isinstance(error, EditError) else f"{type(error).__name__}: {str(error)[:200]}"
        logger.warning("edit %s stays unjudged: %s", row["edit_key"][:12], why)
        return None
    return scores


def _known(ledger: Ledger, key: str) -> float | None:
    """An answer that an endpoint has given before."""
    commit = ledger.find("judgements", key, "none")
    return float(commit.record["answer"]) if commit else None


def _keep(ledger: Ledger, key: str, answer: float) -> None:
    ledger.commit("judgements", key, {}, {"format": FORMAT, "answer": key}, {"answer": answer})


def masked_scores(
    spec: JudgeSpec, row: Mapping[str, Any], source: np.ndarray, edit: np.ndarray, mask: Mask
) -> dict[str, float]:
    """`regions.judged_regions` of an edit with a mask; none where a model can't be used, which the log tells. row: as
    `scored` has it."""
    from cogvideo_core.judging import judges, regions  # imports transformers, which collecting need not wait for

    try:
        wish = judges.Wish(row["source_prompt"], row["target_prompt"])
        return regions.judged_regions(spec, source, edit, mask, wish)
    except Exception as error:  # also what a GPU without room raises: an edit is worth more than its scores
        why = error if isinstance(error, EditError) else f"{type(error).__name__}: {str(error)[:200]}"
        logger.warning("edit %s has no scores of its mask by models: %s", row["edit_key"][:12], why)
        return {}


def judge_edit(
    ledger: Ledger,
    spec: JudgeSpec,
    row: Mapping[str, Any],
    source: Callable[[], np.ndarray],
    edit: np.ndarray,
    early: Mapping[str, Mapping[str, float]] | None = None,
) -> bool:
    """Judges an edit as `scored` does, unless this judge has judged it; whether it did. The source is asked for only
    where it is needed. `early` holds the scores of its clean estimates, where they were measured. Raises StorageError.
    """
    judge = judge_fingerprint(spec)
    if not judge or judgement(ledger, row["edit_key"], judge) is not None:
        return False
    scores = scored(ledger, spec, row, source, edit)
    if scores is None:
        return False
    about = judgement_spec(row["edit_key"], judge)
    record = {"scores": scores} | ({"early": early} if early else {})
    ledger.commit("judgements", fingerprint(about), {}, about, record)
    return True


def calibration_of(ledger: Ledger, spec: JudgeSpec) -> policy.Calibration | None:
    """The calibration that the settings name: a file, the root's own, or the one that comes with the text judge.
    None also where it can't be used, which the log tells: a run of hours is not to end for it."""
    try:
        return _calibration_of(ledger, spec) if spec.measures else None
    except BadSpec as error:
        logger.warning("edits are judged without a calibration: %s", error)
        return None


def _calibration_of(ledger: Ledger, spec: JudgeSpec) -> policy.Calibration | None:
    if spec.calibration != "auto":
        return policy.read_calibration(Path(spec.calibration))
    if ledger.objects.exists(CALIBRATION):
        with tempfile.TemporaryDirectory() as folder:
            own = Path(folder) / "calibration.json"
            own.write_bytes(ledger.objects.read(CALIBRATION))
            return policy.read_calibration(own)
    shipped = resources.files("cogvideo_core.shapes") / "judge" / "calibration.json"
    return policy.read_calibration(Path(str(shipped))) if spec.text == "shapes" and shipped.is_file() else None


def all_scores(ledger: Ledger, row: Mapping[str, Any], judge: str) -> dict[str, float]:
    """What was measured when an edit was made, and the scores of this judge."""
    measured = {name: value for name, value in row["scores"].items() if name not in policy.JUDGED}
    return measured | (judgement(ledger, row["edit_key"], judge) or {})


def stored_frames(ledger: Ledger, commit: Commit, name: str, row: Mapping[str, Any]) -> np.ndarray:
    """The frames of a committed video, in the size and rate of its row: uint8 [F,H,W,3]."""
    limits, clip = video.Limits.of(DatasetSpec()), str(row["clip"])
    view = video.View(row["height"], row["width"], row["fps"], "stretch")
    with tempfile.TemporaryDirectory() as folder:
        path = ledger.fetch(commit, name, Path(folder))
        found = video.probe(path, clip, limits)
        return film.decoded(path, clip, found, video.Window(0, 0.0, row["frames"]), view, limits)


def judge_stored(ledger: Ledger, spec: JudgeSpec, rows: Sequence[Mapping[str, Any]]) -> int:
    """Judges committed edits of one clip from their videos; how many were judged. Edits whose files are gone are left
    out, and videos that can't be read stay unjudged. Raises StorageError."""
    judge = judge_fingerprint(spec)
    todo = [row for row in rows if judge and judgement(ledger, row["edit_key"], judge) is None]
    origin = ledger.find("sources", todo[0]["source_key"]) if todo else None
    if origin is None:
        return 0
    source, judged = cache(lambda: stored_frames(ledger, origin, "source.mp4", todo[0])), 0
    for row in todo:
        commit = ledger.find("edits", row["edit_key"])
        try:
            judged += commit is not None and judge_edit(
                ledger, spec, row, source, stored_frames(ledger, commit, "edit.mp4", row)
            )
        except ClipError as error:
            logger.warning("edit %s stays unjudged: %s", row["edit_key"][:12], error)
    return judged

"""The verdict on each collected edit and its rank among the edits of its prompt: its stored scores, and the limits of
the settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from cogvideo_core.dataset.edit_row import EditRow
from cogvideo_core.dataset.reviews import Said, read_reviews
from cogvideo_core.judging import policy
from cogvideo_core.judging.ranking import Candidate, groups_of, ranked
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.stages.judge import all_scores, calibration_of, judge_fingerprint
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]
# Edits that agree in these are candidates for one place, also where each has a row of its own
COMPETE = ("clip", "window", "start_s", "end_s", "target_prompt")
WHOLE = {"start_s": 0.0, "end_s": 0.0}  # rows of earlier runs lack these
JUDGED_BY = "judged by"  # of a row whose scores are complete: the judge's fingerprint
ACCEPTED = ("accepted", "")
BY_REVIEW = {"keep": ACCEPTED, "prefer": ACCEPTED, "reject": ("rejected", "a reviewer rejected it")}
logger = logging.getLogger(__name__)


class Deciding(NamedTuple):
    """What verdicts follow from, beside the scores; read once for all edits of a root."""

    ledger: Ledger
    spec: JudgeSpec  # without `auto`
    judge: str  # fingerprint, "" where nothing is measured
    calibration: policy.Calibration | None
    reviews: Mapping[str, Said]

    @classmethod
    def of(cls, ledger: Ledger, about: Record) -> Deciding:
        """By the settings of a run."""
        spec = judge_of(about)
        return cls(ledger, spec, judge_fingerprint(spec), calibration_of(ledger, spec), read_reviews(ledger))

    def decided(self, edits: Sequence[EditRow]) -> list[EditRow]:
        """The rows with their verdicts and ranks: all candidates of each of their prompts must be among them."""
        found = [self._decided(cast(Record, row)) for row in edits]
        for group in groups_of(found, COMPETE):
            _compare([found[number] for number in group], self.spec)
        return [cast(EditRow, row) for row in found]

    def _decided(self, row: Record) -> Record:
        if row["state"] == "stopped":
            return {**WHOLE, **row, "verdict": "rejected"}
        known = self.judge and row.get(JUDGED_BY) == self.judge and any(name in policy.JUDGED for name in row["scores"])
        scores = row["scores"] if known else all_scores(self.ledger, row, self.judge)
        decided, said = policy.decide(scores, self.spec, self.calibration), self.reviews.get(row["edit_key"], "")
        verdict, why = BY_REVIEW.get(said, (decided.verdict, "; ".join(decided.reasons)))
        told = {"verdict": verdict, "rejected_because": why, "reviewed": said}
        return {**WHOLE, **row, "scores": scores, "confidence": decided.confidence} | told


def _compare(rows: list[Record], spec: JudgeSpec) -> None:
    """Gives the candidates of a prompt their ranks, and says which are kept."""
    candidates = [
        Candidate(row["verdict"] == "rejected", row["confidence"], row["scores"], row.get("reviewed") == "prefer")
        for row in rows
    ]
    for row, rank in zip(rows, ranked(candidates, spec), strict=True):
        row |= {"rank": rank.rank, "rank_score": rank.score, "candidates": len(rows)}
        row["kept"] = _kept(row, spec)


def _kept(row: Record, spec: JudgeSpec) -> bool:
    if (
        row.get("reviewed") == "reject"
        or row["state"] == "stopped"
        or (row["verdict"] == "rejected" and spec.keep != "all")
    ):
        return False
    unmeasured = not any(name in policy.JUDGED for name in row["scores"])
    return spec.keep != "best" or row["rank"] == 1 or row.get("reviewed") == "keep" or unmeasured


def judge_of(about: Record) -> JudgeSpec:
    """The judge's settings, without `auto`, in the settings of a run; those of earlier versions have none."""
    path = str(about.get("model", {}).get("path", "")) if isinstance(about.get("model"), dict) else ""
    try:
        return JudgeSpec(**about.get("judge", {"text": "none", "preset": "off"})).resolved(path)
    except (ValidationError, TypeError) as error:
        logger.warning("the judge's settings can't be used (%s); edits stay unjudged", type(error).__name__)
        return JudgeSpec.none()

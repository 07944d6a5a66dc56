"""The verdict on each collected edit: its stored scores, and the limits of the settings."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from cogvideo_core.dataset import collect
from cogvideo_core.errors import BadSpec
from cogvideo_core.judging import policy
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.stages.judge import judge_fingerprint, judgement
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]
CALIBRATION = "plan/calibration.json"
logger = logging.getLogger(__name__)


def with_verdicts(ledger: Ledger, edits: Sequence[collect.EditRow], about: Record) -> list[collect.EditRow]:
    """The rows with the scores of the judge that the settings name, and with the verdict of its limits.

    Nothing is measured here, so changed limits decide anew in seconds."""
    spec = judge_of(about)
    judge = judge_fingerprint(spec)
    try:
        calibration = calibration_of(ledger, spec)
    except BadSpec as error:  # a run of hours is not to end here
        logger.warning("edits are judged without a calibration: %s", error)
        calibration = None
    found: list[collect.EditRow] = []
    for row in edits:
        measured = {name: value for name, value in row["scores"].items() if name not in policy.JUDGED}
        scores = measured | (judgement(ledger, row["edit_key"], judge) or {})
        decided = policy.decide(scores, spec, calibration)
        passed = decided.verdict != "rejected" or spec.keep == "all"
        verdict = {"verdict": decided.verdict, "rejected_because": "; ".join(decided.reasons), "kept": passed}
        found.append(cast(collect.EditRow, row | {"scores": scores, "confidence": decided.confidence} | verdict))
    return found


def judge_of(about: Record) -> JudgeSpec:
    """The judge's settings, without `auto`, in the settings of a run; those of earlier versions have none."""
    path = str(about.get("model", {}).get("path", "")) if isinstance(about.get("model"), dict) else ""
    try:
        return JudgeSpec(**about.get("judge", {"text": "none", "preset": "off"})).resolved(path)
    except (ValidationError, TypeError) as error:
        logger.warning("the judge's settings can't be used (%s); edits stay unjudged", type(error).__name__)
        return JudgeSpec.none()


def calibration_of(ledger: Ledger, spec: JudgeSpec) -> policy.Calibration | None:
    """The calibration that the settings name: a file, the root's own, or the one that comes with the text judge."""
    if spec.calibration != "auto":
        return policy.read_calibration(Path(spec.calibration))
    if ledger.objects.exists(CALIBRATION):
        with tempfile.TemporaryDirectory() as folder:
            own = Path(folder) / "calibration.json"
            own.write_bytes(ledger.objects.read(CALIBRATION))
            return policy.read_calibration(own)
    shipped = resources.files("cogvideo_core.shapes") / "judge" / "calibration.json"
    return policy.read_calibration(Path(str(shipped))) if spec.text == "shapes" and shipped.is_file() else None

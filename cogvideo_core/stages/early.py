"""Gives up edits that will fail: after some of the steps their clean estimates are decoded and judged.

A rejected edit leaves its batch, so that the transformer computes fewer rows; the others' results do not change. What
is given up is a judgement of its own in the ledger, and is not tried again while judge and limits are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.ddim import x0_between
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.judging.policy import Calibration
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import RecipeSpec, fingerprint
from cogvideo_core.stages.judge import judge_fingerprint, judgement_spec, scored
from cogvideo_core.stages.results import edit_row
from cogvideo_core.stages.units import Edit
from cogvideo_core.stages.wishes import recipe_of
from cogvideo_core.stages.work import Record, Shared, Work
from cogvideo_core.storage.ledger import Commit
from cogvideo_core.storage.uris import shown_clip

Scores = dict[str, float]


class Stop(NamedTuple):
    """An edit that was given up."""

    edit: Edit
    step: int  # steps that were done, those that the recipe skips among them
    confidence: float
    limit: float


class Denoised(NamedTuple):
    """What became of a batch: the clean latents [f,C,h,w] of each edit that was finished, or a list of its scenes'
    where the clip has several windows; and the stops."""

    edits: list[Edit]
    latents: Tensor | Sequence[Any]
    stops: list[Stop]
    early: Mapping[str, Mapping[str, Scores]]  # edit key -> share of the steps -> scores of the clean estimate
    spent: int | None = None  # evaluations, where they do not follow from the batch alone


def stop_spec(edit_key: str, spec: JudgeSpec, calibration: Calibration | None) -> Record | None:
    """What a stop is determined by besides the edit's own settings; None where none is given up."""
    judge = judge_fingerprint(spec) if spec.early_stop == "on" else ""
    looks = {share: fingerprint(early.as_json()) for share, early in _known(spec, calibration).items()}
    if not judge or not looks:
        return None
    return judgement_spec(edit_key, judge) | {"early": looks, "latents": spec.early_latents}


def _known(spec: JudgeSpec, calibration: Calibration | None) -> dict[str, Calibration]:
    """The looks that the settings ask for and the calibration has limits for."""
    early = calibration.early if calibration else {}
    return {share: early[share] for share in map("{:g}".format, spec.early_steps) if share in early}


def committed(work: Work, edit_key: str, calibration: Calibration | None) -> Commit | None:
    """The edit, or its stop if it was given up under these settings; None where it is still to be made."""
    about = stop_spec(edit_key, work.judge, calibration)
    stop = work.ledger.find("judgements", fingerprint(about), "none") if about else None
    return work.find("edits", edit_key) or stop


def commit_stop(work: Work, record: Record, stop: Stop, calibration: Calibration | None, batch: list[str]) -> Commit:
    """Records a stop, with the row that the tables show."""
    about = stop_spec(stop.edit["edit_key"], work.judge, calibration)
    if about is None:
        raise ValueError("nothing is given up with these settings")
    steps, recipe = work.inversion.steps, recipe_of(work.recipe, stop.edit)
    saved = own_evaluations(recipe, steps, work.model.layers, range(stop.step, steps))
    told = f"stopped after {stop.step} of {steps} steps: confidence {stop.confidence:.3f} is below {stop.limit:.3f}"
    row = edit_row(work, record, stop.edit, {}) | {
        "clip": shown_clip(record["clip"]),
        "state": "stopped",
        "rejected_because": told,
        "confidence": round(stop.confidence, 4),
        "saved_evaluations": saved,
    }
    return work.ledger.commit("judgements", fingerprint(about), {}, about, {"row": row, "batch": batch})


class Watch:
    """Looks at a batch while it is denoised, and says which of its edits go on."""

    def __init__(self, work: Work, record: Record, batch: Sequence[Edit], recipe: RecipeSpec, shared: Shared) -> None:
        self.work, self.record, self.source, self.left = work, record, shared.source, list(batch)
        self.stops: list[Stop] = []
        self.early: dict[str, dict[str, Scores]] = {}
        spec, steps = work.judge, work.inversion.steps
        active = spec.early_stop != "off" and bool(judge_fingerprint(spec))
        self.limits = _known(spec, shared.calibration) if spec.early_stop == "on" else {}
        shares = list(self.limits) if spec.early_stop == "on" else list(map("{:g}".format, spec.early_steps))
        within = range(editing.first_step(recipe, steps) + 1, steps)
        looks = {share: round(float(share) * steps) for share in shares} if active else {}
        self.looks = {done: share for share, done in looks.items() if done in within}

    def look(self, step: int, before: Tensor, after: Tensor, schedule: Schedule) -> Tensor | None:
        """After step number `step` from state to state [E,f,C,h,w]: the mask [E] of the edits that go on; None: all."""
        share = self.looks.get(step + 1)
        if share is None:
            return None
        level = schedule.level(step)
        clean = x0_between(before, after, schedule.thetas[level], schedule.thetas[level - 1])
        stay = [self._goes_on(edit, share, step + 1, one) for edit, one in zip(self.left, clean, strict=True)]
        self.left = [edit for edit, goes in zip(self.left, stay, strict=True) if goes]
        return None if all(stay) else torch.tensor(stay)

    def _goes_on(self, edit: Edit, share: str, done: int, clean: Tensor) -> bool:
        frames = self.work.model.decode(clean[: self.work.model.front_padding + self.work.judge.early_latents])
        spec, row = self.work.judge.model_copy(update={"vlm": ""}), self.record | edit  # asking takes too long here
        scores = scored(self.work.ledger, spec, row, lambda: self.source()[: len(frames)], frames)
        if scores is None:
            return True
        self.early.setdefault(edit["edit_key"], {})[share] = scores
        early = self.limits.get(share)
        if early is None:
            return True
        confidence, limit = early.confidence(scores), early.limits.get("stop", 0.0)
        if confidence < limit:
            self.stops.append(Stop(edit, done, confidence, limit))
        return confidence >= limit


def own_evaluations(recipe: RecipeSpec, steps: int, layers: int, part: range) -> int:
    """What an edit costs on top of its batch, in a part of the steps."""
    two, one = (editing.edit_evaluations(recipe, steps, n, layers, part) for n in (2, 1))
    return two - one


def evaluations_of(recipe: RecipeSpec, steps: int, layers: int, edits: int, stops: Sequence[Stop]) -> int:
    """What a batch cost whose stops left it on the way."""
    return sum(
        editing.edit_evaluations(recipe, steps, left, layers, range(start, end))
        for start, end, left in _spans(edits, stops, steps)
        if left
    )


def _spans(edits: int, stops: Sequence[Stop], steps: int) -> list[tuple[int, int, int]]:
    """(first step, step after the last, edits in the batch) of each part of a denoising."""
    ends = sorted({stop.step for stop in stops} | {steps})
    starts = [0, *ends[:-1]]
    return [
        (start, end, edits - sum(stop.step <= start for stop in stops)) for start, end in zip(starts, ends, strict=True)
    ]

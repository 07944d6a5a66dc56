"""What is compared of recipes: the judge's scores of edits, clip by clip, and their means over clips."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cogvideo_core.study.bench import interval

Scores = Mapping[str, float]
QUALITIES = ("text", "preserved", "motion")
UNITS = {"text": 0.05, "preserved": 1.0, "motion": 0.1}  # gains of one unit count the same
AIM = {"text": 0.01, "preserved": 0.2, "motion": 0.03}  # by how much less than the preset's the search aims at, at most
TOLERANCE = {"text": 0.02, "preserved": 0.3, "motion": 0.03}  # less by so little is no worse, where the pick is made
REACH = {"text": 0.1, "preserved": 2.0, "motion": 0.15}  # a trial that is farther below the preset's is given up


class Marks(NamedTuple):
    """Of a clip's edits, or the means over clips. text: probability that an edit shows its prompt; preserved: dB of
    what should have stayed; motion: agreement with the source's."""

    text: float
    preserved: float
    motion: float

    def __sub__(self, other: Marks) -> Marks:
        return Marks(*(one - two for one, two in zip(self, other, strict=True)))


def text_mark(scores: Scores) -> float:
    """The judge's probability that an edit shows its target prompt: over its source prompt, and of each contrast that
    it names, the lowest. The cosine where it gives none."""
    known = [scores[name] for name in ("text_choice", "text_contrast") if name in scores]
    return min(known) if known else scores["text_similarity"]


def clip_marks(edits: Sequence[Scores]) -> Marks:
    """Of one clip. The median of `preserved`, so that one prompt that asks for a new background does not count as
    damage; motion 0 where nothing moves."""
    text = statistics.fmean(text_mark(scores) for scores in edits)
    kept = statistics.median(scores["kept_db"] for scores in edits)
    moving = [scores["motion_agreement"] for scores in edits if "motion_agreement" in scores]
    return Marks(text, kept, statistics.fmean(moving) if moving else 0.0)


def mean_marks(clips: Sequence[Marks]) -> Marks:
    return Marks(*np.mean(clips, axis=0).tolist())


def lowered(clips: Sequence[Marks], give_db: float) -> list[Marks]:
    """The preset's marks as they are asked of recipes that may preserve less by so much."""
    return [marks._replace(preserved=marks.preserved - give_db) for marks in clips]


def gaps(marks: Marks, base: Marks, allowed: Mapping[str, float]) -> dict[str, float]:
    """By how much each quality falls below the preset's, beyond what is allowed, in units; at most 0 for no worse."""
    return {name: (getattr(base, name) - allowed[name] - getattr(marks, name)) / UNITS[name] for name in QUALITIES}


def shortfall(marks: Marks, base: Marks, allowed: Mapping[str, float] = TOLERANCE) -> float:
    """The sum of the `gaps` that are above 0."""
    return sum(gap for gap in gaps(marks, base, allowed).values() if gap > 1e-9)


def gain(marks: Marks, base: Marks) -> float:
    """What marks have over the preset's in text and preserved, in units."""
    return sum((getattr(marks, name) - getattr(base, name)) / UNITS[name] for name in ("text", "preserved"))


def worth(marks: Marks, base: Marks) -> float:
    """What trials are ranked by: the gain where nothing is worse than the preset's, else the shortfall below zero."""
    short = shortfall(marks, base, AIM)
    return -short if short > 0 else gain(marks, base)


def spans(clips: Sequence[Marks]) -> dict[str, list[float]]:
    """Mean, and the ends of its 95 % interval over clips, of each quality."""
    found = {}
    for name, values in zip(QUALITIES, np.array(clips).T, strict=True):
        low, high = interval(values)
        found[name] = [round(float(value), 4) for value in (values.mean(), low, high)]
    return found


def differences(ours: Sequence[Marks], theirs: Sequence[Marks]) -> dict[str, list[float]]:
    """`spans` of the differences on the same clips."""
    return spans([one - two for one, two in zip(ours, theirs, strict=True)])

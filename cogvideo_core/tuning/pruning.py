"""Successive halving over clips: how many clips trials see, and which are given up before they have seen all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cogvideo_core.settings.tune_specs import FIRST_RUNG
from cogvideo_core.tuning.marks import QUALITIES, REACH, Marks, mean_marks, worth
from cogvideo_core.tuning.trials import Trial

KEPT = 0.5  # share of the trials on a rung that go on to the next


def rungs_of(clips: int) -> list[int]:
    """Numbers of clips after which a trial is compared: 3, 6, 12 ... up to all."""
    found = [FIRST_RUNG]
    while found[-1] * 2 <= clips:
        found.append(found[-1] * 2)
    return [*(rung for rung in found if rung < clips), clips]


def given_up(own: Sequence[Marks], cost: float, base: Sequence[Marks], others: Sequence[Trial]) -> str:
    """Why a trial is not shown more clips; "" where it goes on. All compare on the clips that it has seen.

    own, base: marks of each clip by the trial and by the preset. others: trials that are finished.
    """
    clips, marks = len(own), mean_marks(own)
    preset = mean_marks(base[:clips])
    for name in QUALITIES:
        if (below := getattr(preset, name) - getattr(marks, name)) > REACH[name]:
            return f"out of reach: {name} is {below:.3g} below the preset's after {clips} clips"
    rivals = [(other, other.marks(clips)) for other in others if len(other.scores) >= clips]
    for other, theirs in rivals:
        if dominates((*theirs, -other.cost), (*marks, -cost)):
            return f"dominated by trial {other.number} after {clips} clips"
    better = sum(worth(theirs, preset) > worth(marks, preset) for _, theirs in rivals)
    if better >= math.ceil(KEPT * (len(rivals) + 1)):
        return f"in the worse half of {len(rivals) + 1} trials after {clips} clips"
    return ""


def dominates(theirs: tuple[float, ...], ours: tuple[float, ...]) -> bool:
    """Whether one point is nowhere worse than another, and somewhere better; larger is better."""
    return all(a >= b for a, b in zip(theirs, ours, strict=True)) and theirs != ours

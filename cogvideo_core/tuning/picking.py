"""Which recipe is written down, and which stand beside it on the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from cogvideo_core.tuning.marks import TOLERANCE, UNITS, Marks, gain, lowered, mean_marks, shortfall
from cogvideo_core.tuning.pruning import dominates
from cogvideo_core.tuning.trials import Trial

RULE = (
    "Of the recipes that have seen all tuning clips, and whose text, preserved and motion there are no worse than the "
    f"preset's (to {TOLERANCE['text']:g}, {TOLERANCE['preserved']:g} dB and {TOLERANCE['motion']:g}), the one that "
    f"gains most in text and preserved together, {UNITS['text']:g} of text counting as {UNITS['preserved']:g} dB; of "
    "equal ones the cheaper. Where there is none, the preset stays."
)


def rule(give_db: float) -> str:
    """The rule of the pick in words."""
    return RULE + (f" Preserved may be less by another {give_db:g} dB." if give_db else "")


def picked(trials: Sequence[Trial], base: Sequence[Marks], give_db: float = 0.0) -> Trial | None:
    """The trial that `rule` names; None where the preset stays. base: the preset's marks by clip."""
    preset, floor = mean_marks(base), mean_marks(lowered(base, give_db))
    fit = [trial for trial in complete(trials) if shortfall(trial.marks(), floor) == 0]
    fit = [trial for trial in fit if gain(trial.marks(), preset) > 0]
    return max(fit, key=lambda trial: (round(gain(trial.marks(), preset), 3), -trial.cost), default=None)


def complete(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state == "complete"]


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials that no other dominates in text, preserved, motion and cost, the cheapest first."""
    points = {trial.number: (*trial.marks(), -trial.cost) for trial in complete(trials)}
    best = [
        trial
        for trial in complete(trials)
        if not any(dominates(other, points[trial.number]) for other in points.values())
    ]
    return sorted(best, key=lambda trial: trial.cost)

"""Steps without the transformer: their velocities are extrapolated from the last two whole steps.

Between near levels, the clean estimate and the noise that a velocity stands for hardly change, and their change goes on
at nearly the same rate. Which steps are whole depends on the recipe and the number of steps alone, so that an edit does
not depend on the others in its batch. Inversion skips none: its states must lead back to the clip.

Source: multistep solvers such as DPM-Solver++ 2M (arXiv 2211.01095) in angle form, read as a cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from cogvideo_core.diffusion.ddim import Evaluated, drift, rotate
from cogvideo_core.settings.specs import RecipeSpec

EVERY = {"off": 1, "safe": 2, "bold": 3}
WHOLE_AT_FIRST = 0.2  # as a share of all steps: where the layout of an edit is decided, each step counts

Halves = tuple[Tensor | None, Tensor]
"""Velocities [E,f,C,h,w] without and with the edits' prompts; the first is None where not guided."""


class Whole(NamedTuple):
    """A step that went through the transformer: angle and states [E,f,C,h,w] that it started from, its velocities."""

    theta: float
    x: Tensor
    halves: Halves

    def of(self, chosen: Tensor) -> Whole:
        """Those of the edits that `chosen` [E] marks."""
        v_uncond, v_cond = self.halves
        return Whole(self.theta, self.x[chosen], (None if v_uncond is None else v_uncond[chosen], v_cond[chosen]))


def whole_steps(recipe: RecipeSpec, taken: range, steps: int, entered: Iterable[int] = ()) -> set[int]:
    """The steps that go through the transformer, of those that are `taken` of all `steps`.

    entered: steps at which the calls change, as where the reference's window begins or ends. Nothing can be
    extrapolated across them, so each is whole with the one after it; as are the first that are taken, at least four.
    """
    every, at_first = EVERY[recipe.cache], max(4, round(WHOLE_AT_FIRST * steps))
    whole = {step for place, step in enumerate(taken) if place < at_first or (place - at_first + 1) % every == 0}
    return whole | {step for change in entered for step in (change, change + 1) if step in taken}


def extrapolated(before: Whole, last: Whole, theta: float, guided: bool) -> Halves:
    """The velocities at the angle `theta`, which is below the last whole step's."""

    def carried(v_before: Tensor, v_last: Tensor) -> Tensor:
        """The last velocity with its clean estimate and noise kept, and the drift beyond that as it was so far."""
        now = Evaluated(last.theta, last.x, v_last)
        beyond = drift(Evaluated(before.theta, before.x, v_before), now)
        return rotate(now.v, -now.x, theta - now.theta) + (theta - now.theta) * beyond

    (uncond_before, cond_before), (uncond_last, cond_last) = before.halves, last.halves
    v_uncond = (
        carried(uncond_before, uncond_last)
        if guided and uncond_before is not None and uncond_last is not None
        else None
    )
    return v_uncond, carried(cond_before, cond_last)

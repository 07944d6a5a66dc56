"""The search: the preset first, then the layer study, then trials until the budget is spent, then the held-out clips.

Every finished part is committed, so that a search that was killed goes on with the trial that it was in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol

from cogvideo_core.errors import BadSpec, NotFinite
from cogvideo_core.settings.tune_specs import TuneSpec
from cogvideo_core.tuning.marks import Marks, clip_marks, lowered
from cogvideo_core.tuning.picking import picked
from cogvideo_core.tuning.proposing import propose
from cogvideo_core.tuning.pruning import given_up, rungs_of
from cogvideo_core.tuning.space import Point, Space
from cogvideo_core.tuning.trials import Kind, Seen, Store, Trial

SHOWN_CLIPS = 4  # of which a strip is kept


class Measure(Protocol):
    """measure(point, clips, left_out) -> what the recipe makes of each of these clips, by number: those to tune on come
    first, the held-out ones after them; without the reference in the layers that are left out."""

    def __call__(self, point: Point, clips: Sequence[int], left_out: range = range(0)) -> list[Seen]: ...


class OutOfTime(Exception):
    """The budget ended within a trial, which is not kept."""


@dataclass
class Clock:
    """What is left of the budget, in seconds, given what earlier calls have spent."""

    budget_s: float
    spent_s: float = 0.0
    now: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()

    @property
    def left_s(self) -> float:
        return self.budget_s - self.spent_s - (self.now() - self.started)


class Found(NamedTuple):
    """Everything that a search has found. `layers`: the reference everywhere, then without each group of layers;
    held_out: the preset, then the pick, where there is one."""

    preset: Trial
    trials: list[Trial]
    layers: list[Trial]
    pick: Trial | None
    held_out: list[Trial]
    stopped: str


@dataclass
class Search:
    """A search over a space, with its store and what measures. `prepared_s`: what encoding and inverting have taken."""

    spec: TuneSpec
    space: Space
    preset: Point
    store: Store
    measure: Measure
    clips: int
    held_out: int
    prepared_s: float = 0.0
    say: Callable[[str], None] = lambda _: None
    now: Callable[[], float] = time.monotonic

    def run(self) -> Found:
        """Searches until budget or trials are spent. Raises BadSpec where the budget does not suffice for one trial."""
        earlier = [*self.store.all("preset"), *self.store.all("layers"), *self.store.all()]
        clock = Clock(self.budget_s, sum(trial.seconds for trial in earlier) + self.prepared_s, self.now)
        preset = self._whole("preset", 0, self.preset, range(self.clips))
        reserve_s = 2.2 * self.held_out * preset.seconds / self.clips  # for the held-out clips
        layers = self._layers(clock, reserve_s)
        trials, stopped = self._trials(clock, preset, reserve_s)
        pick = picked(trials, preset.clips, self.spec.give_db)
        return Found(preset, trials, layers, pick, self._held_out(pick), stopped)

    @property
    def budget_s(self) -> float:
        return self.spec.budget_s

    def _whole(self, kind: Kind, number: int, point: Point, clips: range, left_out: range = range(0)) -> Trial:
        """A recipe on all of these clips, if it is not known."""
        known = self.store.find(kind, number)
        if known is not None:
            return known
        started = self.now()
        found = self.measure(point, clips, left_out)
        self.say(f"{kind} {number}: {told([clip_marks(one.scores) for one in found])}")
        return self._keep(kind, number, {}, point, found, ("complete", ""), started)

    def _keep(
        self, kind: Kind, number: int, params: dict, point: Point, found: list[Seen], end: tuple, started: float
    ) -> Trial:
        spent, seconds = sum(one.evaluations for one in found), round(self.now() - started, 3)
        scores = [one.scores for one in found]
        recipe, cost, (state, why) = point.recipe.as_json(), round(self.space.cost(point), 3), end
        trial = Trial(kind, number, params, recipe, point.steps, cost, state, why, scores, spent, seconds)
        return self.store.keep(trial, [one.tile for one in found[:SHOWN_CLIPS]])

    def _layers(self, clock: Clock, reserve_s: float) -> list[Trial]:
        """The reference in all layers, then without one group after the other, as far as there is time."""
        count = self.space.layers
        groups = min(self.spec.layer_groups, count)
        changes = {"layer_start": 0.0, "layer_end": 1.0, "name": "all_layers"}
        point = Point(self.preset.recipe.model_copy(update=changes), self.preset.steps)
        clips, found = range(min(self.spec.layer_clips, self.clips)), list[Trial]()
        for number, left_out in enumerate([range(0), *groups_of(count, groups)] if groups else []):
            if clock.left_s < reserve_s and self.store.find("layers", number) is None:
                break
            found.append(self._whole("layers", number, point, clips, left_out))
        return found

    def _trials(self, clock: Clock, preset: Trial, reserve_s: float) -> tuple[list[Trial], str]:
        """All trials, those of earlier calls first, and why there are no more."""
        trials, base = self.store.all(), lowered(preset.clips, self.spec.give_db)
        while True:
            if self.spec.trials and len(trials) >= self.spec.trials:
                return trials, f"{len(trials)} trials are done"
            first_s = preset.seconds * rungs_of(self.clips)[0] / self.clips  # what a trial takes at least
            if clock.left_s < reserve_s + first_s:
                if not trials:
                    problem = f"{self.spec.budget} does not suffice for one trial after the clips were prepared"
                    raise BadSpec(f"field tune.budget: {problem}; raise it, or lower tune.clips or tune.prompts")
                return trials, f"the budget of {self.spec.budget} is spent"
            params = propose(self.space, trials, base, self.spec.seed, self.spec.first_random)
            if params is None:
                return trials, "no usable recipe is left untried"
            try:
                trials.append(self._try(len(trials), params, trials, base, clock))
            except OutOfTime:
                return trials, f"the budget of {self.spec.budget} is spent"

    def _try(self, number: int, params: dict, trials: list[Trial], base: list[Marks], clock: Clock) -> Trial:
        """One trial, rung by rung. Raises OutOfTime."""
        point, found, started, end = self.space.point(params), list[Seen](), self.now(), ("complete", "")
        try:
            for rung in rungs_of(self.clips):
                if found and clock.left_s <= 0:
                    raise OutOfTime
                found += self.measure(point, range(len(found), rung))
                own = [clip_marks(one.scores) for one in found]
                why = given_up(own, self.space.cost(point), base, trials) if rung < self.clips else ""
                if why:
                    end = ("pruned", why)
                    break
        except NotFinite as error:  # what a recipe may do to a model; other errors end the search
            end = ("failed", str(error))
        self.say(f"trial {number}: {end[1] or 'complete'}; {told([clip_marks(one.scores) for one in found])}")
        return self._keep("trial", number, params, point, found, end, started)

    def _held_out(self, pick: Trial | None) -> list[Trial]:
        """Preset and pick on the held-out clips, once for each pick."""
        if pick is None:
            return []
        clips = range(self.clips, self.clips + self.held_out)
        preset = self._whole("held_out", 0, self.preset, clips)
        return [preset, self._whole("held_out", 1 + pick.number, pick.point, clips)]


def groups_of(layers: int, groups: int) -> list[range]:
    """All layers in about equal groups, in order."""
    ends = [round(layers * group / groups) for group in range(groups + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def told(clips: Sequence[Marks]) -> str:
    """Marks in words, for the log."""
    if not clips:
        return "nothing was measured"
    text, kept, motion = (sum(values) / len(clips) for values in zip(*clips, strict=True))
    return f"text {text:.3f}, preserved {kept:.1f} dB, motion {motion:.2f} on {len(clips)} clips"

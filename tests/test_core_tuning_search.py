"""The search for a recipe, with a made-up measure in place of a model: proposals, pruning, resuming, pick."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cogvideo_core.errors import BadSpec, NotFinite
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.specs import InversionSpec
from cogvideo_core.settings.tune_specs import TuneSpec
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.tuning.marks import Marks, clip_marks, gain, lowered, shortfall
from cogvideo_core.tuning.picking import front, picked
from cogvideo_core.tuning.pruning import dominates, given_up, rungs_of
from cogvideo_core.tuning.search import Found, Search, groups_of
from cogvideo_core.tuning.space import Point, Space
from cogvideo_core.tuning.trials import Seen, Store, Trial

CLIPS, LAYERS = 6, 6


@pytest.fixture
def root() -> str:
    """A root in memory: what is tested here is not the disk."""
    return f"memory://tuning/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def whole() -> Found:
    """An uninterrupted search."""
    return search(f"memory://tuning/{uuid.uuid4().hex}", Made()).run()


SPEC = TuneSpec(
    budget="1h", trials=9, clips=CLIPS, held_out=2, steps=[10, 20], first_random=5, layer_clips=1, layer_groups=2
)


def edit(text: float, kept: float, motion: float = 0.5) -> dict[str, float]:
    return {"text_choice": text, "text_similarity": 0.1, "kept_db": kept, "motion_agreement": motion}


class Made:
    """A measure whose best guidance is 9 and best weight 0.6; counts the clips that it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[Point, int]] = []
        self.now = 0.0

    def __call__(self, point: Point, clips: Sequence[int], left_out: range = range(0)) -> list[Seen]:
        self.asked += [(point, clip) for clip in clips]
        self.now += len(clips)
        recipe = point.recipe
        text = 0.95 - 0.04 * abs(recipe.guidance_scale - 9) - 0.001 * len(left_out)
        kept = 34 - 4 * abs(recipe.reference_weight - 0.6)
        return [Seen([edit(text - 0.001 * clip, kept + 0.01 * clip)], b"jpeg", 10) for clip in clips]


def search(root: str, made: Made, spec: TuneSpec = SPEC) -> Search:
    inversion, preset = InversionSpec(), Point(PRESETS["balanced"], 20)
    space = Space(tuple(spec.steps), LAYERS, inversion, 2, 1.5 * preset.cost(inversion, 2, LAYERS))
    store = Store(Ledger(root), {"for": "a test"})
    return Search(spec, space, preset, store, made, CLIPS, 2, now=lambda: made.now)


def trial(number: int, marks: Sequence[tuple[float, float]], cost: float = 30.0, state: str = "complete") -> Trial:
    recipe = PRESETS["balanced"].as_json() | {"name": "tuned", "guidance_scale": 2.0 + number}
    scores = [[edit(*one)] for one in marks]
    return Trial("trial", number, {}, recipe, 20, cost, state, "", scores, 0, 1.0)  # type: ignore[arg-type]


def test_finds_what_beats_the_preset(whole: Found) -> None:
    """Of a landscape whose peak is elsewhere, the pick is better than the preset, and was seen on all clips."""
    found = whole
    assert found.pick is not None and len(found.pick.scores) == CLIPS
    assert gain(found.pick.marks(), found.preset.marks()) > 0
    assert shortfall(found.pick.marks(), found.preset.marks()) == 0
    assert len(found.trials) == SPEC.trials and "9 trials" in found.stopped
    assert [len(one.scores) for one in found.held_out] == [2, 2]
    assert found.held_out[1].recipe == found.pick.recipe


def test_never_proposes_the_same_or_the_costly(root: str) -> None:
    """No recipe twice, none above the allowed cost, and no value of the preset's is told to the search."""
    one = search(root, Made())
    found = one.run()
    points = [each.point for each in found.trials]
    assert len({(point.recipe.fingerprint, point.steps) for point in points}) == len(points)
    assert all(each.cost <= one.space.most_cost for each in found.trials)
    assert all(each.steps in SPEC.steps for each in found.trials)


def test_a_search_that_was_interrupted_goes_on_as_it_would_have(root: str, whole: Found) -> None:
    """After five of its trials, a new process measures nothing again and proposes the same recipes."""
    search(root, Made(), SPEC.model_copy(update={"trials": 5})).run()
    made = Made()
    resumed = search(root, made).run()
    assert [one.params for one in resumed.trials] == [one.params for one in whole.trials]
    assert {point.recipe.fingerprint for point, _ in made.asked}.isdisjoint(
        one.point.recipe.fingerprint for one in whole.trials[:5] if one.number != (resumed.pick or one).number
    )


def test_dies_within_a_trial_and_loses_that_one_alone(root: str, whole: Found) -> None:
    """What was committed before stays; the trial that was cut off is the next one."""

    class Dies(Made):
        def __call__(self, point: Point, clips: Sequence[int], left_out: range = range(0)) -> list[Seen]:
            if len({one.recipe.fingerprint for one, _ in self.asked if one.recipe.name == "tuned"}) == 4:
                raise KeyboardInterrupt
            return super().__call__(point, clips, left_out)

    with pytest.raises(KeyboardInterrupt):
        search(root, Dies()).run()
    assert len(search(root, Made()).store.all()) == 4
    resumed = search(root, Made()).run()
    assert [one.params for one in resumed.trials] == [one.params for one in whole.trials]


def test_stops_at_the_budget(root: str) -> None:
    """Trials end in time for the held-out clips; a longer budget goes on; one that is too short is refused."""
    made = Made()
    found = search(root, made, SPEC.model_copy(update={"budget": "60s", "trials": 0})).run()
    assert "60s is spent" in found.stopped and made.now <= 60 + CLIPS
    more = search(root, Made(), SPEC.model_copy(update={"budget": "90s", "trials": 0})).run()
    assert len(more.trials) > len(found.trials)
    with pytest.raises(BadSpec, match="does not suffice for one trial"):
        search(f"{root}/short", Made(), SPEC.model_copy(update={"budget": "12s"})).run()


def test_a_recipe_that_breaks_the_model_is_a_failed_trial(root: str) -> None:
    """Values that are not finite end a trial, not the search; any other error ends the search."""

    class Breaks(Made):
        def __call__(self, point: Point, clips: Sequence[int], left_out: range = range(0)) -> list[Seen]:
            if point.recipe.name == "tuned" and point.recipe.guidance_scale > 7:
                raise NotFinite("the transformer gave infinities")
            return super().__call__(point, clips, left_out)

    found = search(root, Breaks()).run()
    failed = [one for one in found.trials if one.state == "failed"]
    assert failed and all("infinities" in one.why for one in failed) and len(found.trials) == SPEC.trials


def test_rungs_double_up_to_all() -> None:
    """3, 6, 12 ... and all clips last."""
    assert rungs_of(12) == [3, 6, 12] and rungs_of(10) == [3, 6, 10] and rungs_of(3) == [3]


BASE = [Marks(0.8, 33.0, 0.5)] * CLIPS


def test_gives_up_what_is_dominated_out_of_reach_or_in_the_worse_half() -> None:
    """Each of the three reasons, on the clips that the trial has seen; a better one goes on."""
    own = [Marks(0.8, 33.0, 0.5)] * 3
    assert given_up(own, 30, BASE, []) == ""
    assert "out of reach: text" in given_up([Marks(0.6, 40.0, 0.5)] * 3, 30, BASE, [])
    assert "out of reach: preserved" in given_up([Marks(0.9, 30.0, 0.5)] * 3, 30, BASE, [])
    better = trial(7, [(0.85, 34.0)] * 3)
    assert given_up(own, 31, BASE, [better]) == "dominated by trial 7 after 3 clips"
    assert given_up([Marks(0.9, 33.5, 0.5)] * 3, 31, BASE, [better]) == ""
    assert "worse half of 2 trials" in given_up(own, 20, BASE, [better])  # cheaper, so not dominated
    assert given_up(own, 31, BASE, [trial(7, [(0.85, 34.0)] * 2)]) == ""  # has seen fewer clips
    assert given_up([Marks(0.9, 30.0, 0.5)] * 3, 30, lowered(BASE, 2), []) == ""


def test_the_pick_is_no_worse_and_gains_most() -> None:
    """A gain bought with less of the preserved is not picked; pruned trials are not; equal gains go to the cheaper."""
    bought, good = trial(0, [(0.99, 31.0)] * CLIPS), trial(1, [(0.85, 33.0)] * CLIPS)
    cheap, pruned = trial(2, [(0.85, 33.0)] * CLIPS, 20.0), trial(3, [(0.99, 40.0)] * 3, state="pruned")
    assert picked([bought, good, cheap, pruned], BASE) == cheap
    assert picked([bought, pruned], BASE) is None
    assert picked([trial(0, [(0.8, 33.0)] * CLIPS)], BASE) is None  # no gain: the preset stays
    assert [one.number for one in front([bought, good, cheap, pruned])] == [2, 0]
    assert picked([bought, cheap], BASE, give_db=1) == cheap and picked([bought, cheap], BASE, give_db=2) == bought
    assert picked([trial(0, [(0.82, 32.0)] * CLIPS)], BASE, give_db=2) is None  # text gains less than is given for it
    assert dominates((1.0, 1.0), (1.0, 0.5)) and not dominates((1.0, 1.0), (1.0, 1.0))


def test_marks_of_a_clip() -> None:
    """text is the lowest probability, preserved the median over prompts, motion the mean of those that move."""
    edits = [edit(0.9, 35), edit(0.7, 9) | {"text_contrast": 0.5}, {"text_similarity": 0.2, "kept_db": 37.0}]
    found = clip_marks(edits)
    assert found.text == pytest.approx((0.9 + 0.5 + 0.2) / 3)
    assert found.preserved == 35 and found.motion == 0.5
    assert clip_marks([{"text_similarity": 0.2, "kept_db": 37.0}]).motion == 0


def test_groups_cover_all_layers() -> None:
    """Every layer is in one group, whatever the numbers."""
    assert [list(group) for group in groups_of(6, 3)] == [[0, 1], [2, 3], [4, 5]]
    assert [layer for group in groups_of(42, 12) for layer in group] == list(range(42))


def test_the_preset_is_not_told(root: str) -> None:
    """The first proposals are the same whatever the preset is: they follow from the seed and the space."""
    few = SPEC.model_copy(update={"trials": 5})
    one, other = (search(f"{root}/{name}", Made(), few) for name in "ab")
    other.preset = replace(other.preset, recipe=PRESETS["bold"])
    first = [found.trials[:5] for found in (one.run(), other.run())]
    assert [t.params for t in first[0]] == [t.params for t in first[1]]

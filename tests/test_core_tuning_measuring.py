"""A recipe on a clip of the toy model: edited from the stored trajectory and judged, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import RecipeSpec
from cogvideo_core.settings.tune_specs import TuneSpec, seconds_of
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.tuning import measuring, preparing
from cogvideo_core.tuning.choosing import sampled, sizes, spread_order, stratified, with_prompts
from cogvideo_core.tuning.measuring import AllBut
from cogvideo_core.tuning.space import Point


class Judges:
    """A judge of brightness."""

    def scores(self, source: np.ndarray, edits: Sequence[np.ndarray], wishes: Sequence[Any]) -> list[dict[str, float]]:
        return [
            {"text_choice": float(edit.mean()) / 255, "text_similarity": 0.1, "kept_db": float(len(wish.target_prompt))}
            for edit, wish in zip(edits, wishes, strict=True)
        ]


@pytest.fixture
def made(toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Work, list[dict[str, Any]]]:
    """The work of a toy run, and two inverted clips."""
    monkeypatch.setattr(measuring, "loaded", lambda spec: Judges())
    work = Work(*toy.settings(str(tmp_path / "root")), toy.ToyModel(), Ledger(str(tmp_path / "root")))
    records = [toy.encode_stages.encode_clip(work, record) for record in toy.records(tmp_path / "clips", 2)]
    return work, [toy.trajectory.invert_clip(work, record) for record in records]


def test_a_trial_costs_edits_only_and_keeps_nothing(made: tuple[Work, list[dict[str, Any]]]) -> None:
    """The scores of each prompt's edit in order; the clip is not inverted again, and no edit is committed."""
    work, (record, _) = made
    point = Point(RecipeSpec(name="tuned", start_at=0.0, guidance_end=1.0, layer_start=0.0), work.inversion.steps)
    before = work.model.evaluations
    found = measuring.seen(measuring.trial_work(work, point), record)
    assert [scores["kept_db"] for scores in found.scores] == [len(text) for text in record["target_prompts"]]
    assert found.evaluations == work.model.evaluations - before
    assert list(work.ledger.keys("edits")) == [] and found.tile.startswith(b"\xff\xd8")
    assert len(list(work.ledger.keys("trajectories"))) == 2
    assert measuring.Seen.from_json(found.as_json()) == found


def test_a_group_of_layers_is_left_out(made: tuple[Work, list[dict[str, Any]]], monkeypatch: Any) -> None:
    """The model is told the reference's layers without the group; the run's own model is as before."""
    work, (record, _) = made
    told: list[Reference] = []
    plain = work.model.velocity

    def velocity(x: Any, t: int, text: Any, reference: Reference | None = None) -> Any:
        told.extend([reference] if reference else [])
        return plain(x, t, text, reference)

    monkeypatch.setattr(work.model, "velocity", velocity)
    point = Point(RecipeSpec(name="x", layer_start=0.0, reference_end=1.0), work.inversion.steps)
    measuring.seen(measuring.trial_work(work, point, range(0, 1)), record)
    assert told and all(0 not in one.layers and 1 in one.layers for one in told)
    told.clear()
    measuring.seen(measuring.trial_work(work, point), record)
    assert told and all(0 in one.layers for one in told)


def test_layers_end_after_the_last_that_is_seen() -> None:
    """So that reference rows leave the batch there, as with a plain range."""
    assert AllBut(range(2, 6), range(4, 6)).stop == 4 and AllBut(range(2, 6), range(2, 3)).stop == 6
    assert AllBut(range(2, 3), range(2, 3)).stop == 0


def test_clips_are_chosen_by_motion_and_prompts_take_turns() -> None:
    """One clip from each stratum; every beginning of the order is spread; the same seed chooses the same."""
    records = [{"clip": f"{n}", "target_prompts": ["a", "b", "c", "d"], "own": [""] * 4} for n in range(40)]
    motions = [float(n) for n in range(40)]
    chosen = stratified(records, motions, 8, 0)
    places = [int(record["clip"]) // 5 for record in chosen]
    assert sorted(places) == list(range(8)) and places[:2] == [0, 4]
    assert chosen == stratified(records, motions, 8, 0) and chosen != stratified(records, motions, 8, 1)
    texts = [with_prompts(record, place, 2)["target_prompts"] for place, record in enumerate(chosen[:2])]
    assert texts == [["a", "b"], ["c", "d"]]
    assert with_prompts(records[0], 3, 9)["target_prompts"] == ["a", "b", "c", "d"]
    assert sorted(spread_order(11)) == list(range(11)) and spread_order(1) == [0]


def test_a_sample_is_fair_and_in_order() -> None:
    """Failures are set apart, all of a short list is taken, and each of a long one has its chance."""
    failed = {"clip": "x", "stage": "discover", "error": "MissingClip", "message": "none", "retryable": False}
    kept, bad = sampled(iter([{"clip": "a"}, failed, {"clip": "b"}]), 5, 0)
    assert ([one["clip"] for one in kept], bad) == (["a", "b"], [failed])
    many = [{"clip": n} for n in range(200)]
    taken = [one["clip"] for seed in range(30) for one in sampled(iter(many), 10, seed)[0]]
    assert len(taken) == 300 and min(taken) < 20 and max(taken) > 180


def test_too_few_clips_are_refused() -> None:
    """With the numbers found and needed; a few more are divided in the ratio that was asked for."""
    spec = TuneSpec(clips=12, held_out=6)
    with pytest.raises(BadSpec, match=r"dataset.source: 4 usable clips were found, and a search needs 5: 3 to tune on"):
        sizes(spec, 4)
    assert sizes(spec, 5) == (3, 2) and sizes(spec, 9) == (6, 3) and sizes(spec, 100) == (12, 6)


def test_no_text_judge_is_refused() -> None:
    """For any model but the one that comes along, with what to give."""
    with pytest.raises(BadSpec, match=r"judge.text: .* give the folder of a CLIP, SigLIP or X-CLIP model"):
        preparing.check_judge(JudgeSpec(), "some/model")
    assert preparing.check_judge(JudgeSpec(), "shapes").text == "shapes"


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("0.5h", 1800)])
def test_budgets(text: str, seconds: float) -> None:
    """Times as people write them."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "soon", "2h later", "-2h", "1s"])
def test_bad_budgets_are_refused(text: str) -> None:
    """In a sentence that says how to write one."""
    with pytest.raises(ValueError, match="budget"):
        TuneSpec(budget=text)

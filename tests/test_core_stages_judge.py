"""The stage judge: each edit judged once by each set of judges, from frames at hand or from its video."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogvideo_core.dataset.verdicts import Deciding
from cogvideo_core.errors import NotFinite, StorageError
from cogvideo_core.judging import judges
from cogvideo_core.media import video
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages import judge
from cogvideo_core.storage.ledger import Ledger

SPEC = JudgeSpec(text="shapes", frames=3)
SCENE = world.scene_from_seed(11)
OTHER = next(colour for colour in world.COLOURS if colour != SCENE.combination.colour)
WANTED = SCENE.edited(colour=OTHER)


def row(key: str, scene: world.Scene) -> dict[str, Any]:
    return {
        "edit_key": key * 64,
        "source_key": "5" * 64,
        "clip": "a.mp4",
        "window": 0,
        "state": "done",
        "source_prompt": SCENE.combination.caption(),
        "target_prompt": WANTED.combination.caption(),
        "scores": {"delta_e": 2.0},
        **{"frames": world.FRAMES, "height": world.SIZE_PX, "width": world.SIZE_PX, "fps": world.FPS},
    }


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """An edit that came out, and one that left the clip as it was, committed with their source."""
    ledger, found = Ledger(str(tmp_path)), [row("a", WANTED), row("b", SCENE)]
    for stage, key, name, scene in (
        ("sources", "5" * 64, "source.mp4", SCENE),
        ("edits", "a" * 64, "edit.mp4", WANTED),
        ("edits", "b" * 64, "edit.mp4", SCENE),
    ):
        video.encode(world.render(scene), tmp_path / name, world.FPS)
        ledger.commit(stage, key, {name: tmp_path / name}, {}, {})  # type: ignore[arg-type]
    return found


def asked() -> np.ndarray:
    raise AssertionError("frames were asked for")


def test_an_edit_is_judged_once(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """The second time neither frames nor models are asked for; other judges judge anew, other limits do not."""
    ledger = Ledger(str(tmp_path))
    assert judge.judge_stored(ledger, SPEC, rows) == 2
    strict = SPEC.model_copy(update={"least_text_choice": 0.9})
    assert not any(judge.judge_edit(ledger, strict, row, asked, world.render(WANTED)) for row in rows)
    assert judge.judge_stored(ledger, SPEC.model_copy(update={"frames": 2}), rows) == 2


def test_the_video_says_what_the_frames_say(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Scores from committed videos are near those from the frames they were made of."""
    ledger, other = Ledger(str(tmp_path)), Ledger(str(tmp_path / "other"))
    judge.judge_stored(ledger, SPEC, rows)
    frames = {"a" * 64: world.render(WANTED), "b" * 64: world.render(SCENE)}
    for row in rows:
        judge.judge_edit(other, SPEC, row, lambda: world.render(SCENE), frames[row["edit_key"]])
    by = judge.judge_fingerprint(SPEC)
    for key in frames:
        stored, at_hand = judge.judgement(ledger, key, by), judge.judgement(other, key, by)
        assert stored and at_hand and stored.keys() == at_hand.keys()
        for name in ("text_similarity", "text_choice", "motion_agreement"):
            assert stored[name] == pytest.approx(at_hand[name], abs=0.15), name


def test_a_judge_that_cannot_be_used_leaves_edits_unjudged(
    rows: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One sentence in the log, nothing judged, nothing rejected."""
    ledger, spec = Ledger(str(tmp_path)), JudgeSpec(text=str(tmp_path / "nowhere"))
    with caplog.at_level(logging.WARNING):
        assert judge.judge_stored(ledger, spec, rows) == 0
    assert "edits stay unjudged: field judge.text" in caplog.text and "Traceback" not in caplog.text
    about = {"model": {"path": "shapes"}, "judge": spec.as_json()}
    assert [found["verdict"] for found in Deciding.of(ledger, about).decided(rows)] == ["unjudged"] * 2  # type: ignore[arg-type]


def test_limits_decide_anew_without_a_video(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """The edit that came out passes and the other is rejected with a reason; with limits off both stay, and the videos
    may be gone by then."""
    ledger = Ledger(str(tmp_path))
    judge.judge_stored(ledger, SPEC, rows)
    for file in tmp_path.rglob("*.mp4"):
        file.unlink()

    def decided(**changes: Any) -> list[Any]:
        about = {"model": {"path": "shapes"}, "judge": SPEC.model_copy(update=changes).as_json()}
        return list(Deciding.of(ledger, about).decided(rows))  # type: ignore[arg-type]

    good, bad = decided(calibration="auto")
    assert (bad["verdict"], bad["kept"]) == ("rejected", False) and "text choice" in bad["rejected_because"]
    assert good["scores"]["delta_e"] == 2.0 and good["scores"]["text_choice"] > 0.9
    assert [found["kept"] for found in decided(keep="all")] == [True, True]
    assert all(found["kept"] for found in decided(preset="off", least_text_choice=0.0))


def test_the_settings_of_an_earlier_version_judge_nothing(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A root whose settings know no judge, or an unknown one, keeps its edits unjudged."""
    for about in ({}, {"judge": {"nonsense": 1}}, {"judge": 3, "model": 4}):
        found = Deciding.of(Ledger(str(tmp_path)), about).decided(rows)  # type: ignore[arg-type]
        assert [(edit["verdict"], edit["kept"]) for edit in found] == [("unjudged", True)] * 2


@pytest.mark.parametrize("error", [NotFinite("field judge.text: not finite"), RuntimeError("CUDA out of memory")])
def test_a_judge_that_fails_at_work_costs_no_edit(
    error: Exception, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Whatever it raises, the edit stays unjudged and the log says why in a line; a store that fails is not hidden."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(judges.Judges, "scores", fails)
    ledger = Ledger(str(tmp_path))
    assert judge.judge_stored(ledger, SPEC, rows) == 0
    assert caplog.text.count("stays unjudged") == 2 and str(error) in caplog.text and "Traceback" not in caplog.text
    error = StorageError("the store is away")
    with pytest.raises(StorageError):
        judge.judge_stored(ledger, SPEC, rows)


def test_a_damaged_video_leaves_its_edit_unjudged(rows: list[dict[str, Any]], tmp_path: Path, caplog: Any) -> None:
    """The other edits of the clip are judged."""
    ledger = Ledger(str(tmp_path))
    (stored,) = (tmp_path / "edits").glob("aa/*/*/edit.mp4")
    stored.write_bytes(b"x" * stored.stat().st_size)
    assert judge.judge_stored(ledger, SPEC, rows) == 1
    assert caplog.text.count("stays unjudged") == 1 and f"edit {'a' * 12} stays unjudged" in caplog.text


def test_a_calibration_that_is_gone_ends_no_run(rows: list[dict[str, Any]], tmp_path: Path, caplog: Any) -> None:
    """Edits are decided by the other limits, and the log names the file."""
    ledger = Ledger(str(tmp_path))
    judge.judge_stored(ledger, SPEC, rows)
    about = {"model": {"path": "shapes"}, "judge": SPEC.as_json() | {"calibration": str(tmp_path / "gone.json")}}
    good, bad = Deciding.of(ledger, about).decided(rows)  # type: ignore[arg-type]
    assert (good["verdict"], bad["verdict"], good["confidence"]) == ("accepted", "rejected", None)
    assert "without a calibration" in caplog.text and "gone.json" in caplog.text

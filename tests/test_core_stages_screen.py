"""The screen on real files: windows keep clear of cuts, keys stay, limits mark or drop, duplicates are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import toy_run
from bright_network import bright_is_text

from cogvideo_core.dataset import tables
from cogvideo_core.errors import ModelError
from cogvideo_core.media import video
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.planning import plan
from cogvideo_core.planning.tables import read_refused, write_plan
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
)
from cogvideo_core.shapes import world
from cogvideo_core.stages import edit, screen, trajectory
from cogvideo_core.stages.encode import encode_clip
from cogvideo_core.stages.failures import attempt, is_failure
from cogvideo_core.stages.prompts import embed_missing
from cogvideo_core.stages.screen import Screening
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger
from tasks.settings import Settings

Record = dict[str, Any]
AVOID, IGNORE = ScreenSpec(), ScreenSpec.none()


class Model(toy_run.ToyModel):
    def decode(self, latents: Any) -> np.ndarray:
        return super().decode(latents).astype(np.uint8)


MODEL: Any = Model()


def clip(seed: int) -> np.ndarray:
    return world.render(world.scene_from_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "prompts.txt").write_text("a blue circle\n")
    return tmp_path / "in"


def write(path: Path, *parts: np.ndarray) -> None:
    video.encode(np.concatenate(parts), path, 8, crf=1)


def work_at(folder: Path, root: str, spec: ScreenSpec, **dataset: Any) -> Work:
    groups = toy_run.settings(str(folder.parent / root))
    asked = DatasetSpec(source=str(folder), **dataset)
    return Work(asked, *groups[1:], MODEL, Ledger(str(folder.parent / root)), screen=spec)


def planned(work: Work, **given: Any) -> list[Record]:
    return list(plan.planned_clips(work.dataset, work.model, screen=work.screen, ledger=work.ledger, **given))


def encoded(work: Work) -> Record:
    (record,) = (attempt(lambda clip: encode_clip(work, clip), record, "encode") for record in planned(work))
    return record


def source_frames(work: Work, record: Record) -> np.ndarray:
    commit = work.find("sources", record["source_key"])
    assert commit is not None
    path = work.ledger.fetch(commit, "source.mp4", Path(work.output.root))
    limits = video.Limits.of(work.dataset)
    found = video.probe(path, "s", limits)
    return video.decode(path, "s", found, video.Window(0, 0.0, 9), video.View(16, 16, 8), limits)


def seen(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA) for frame in frames]).astype(int)


@pytest.mark.parametrize(("window", "parts"), [("first", 1), ("first", 2), ("middle", 2)])
def test_without_a_cut_in_the_way_all_is_as_before(folder: Path, window: str, parts: int) -> None:
    """A root that was made without a screen is reused: same keys, nothing is encoded again; so it is where the cut lies
    behind the first window, or where the middle window is a whole scene."""
    write(folder / "a.mp4", *(clip(seed) for seed in range(2 * parts - 1)))
    before = encoded(work_at(folder, "root", IGNORE, window=window))
    work = work_at(folder, "root", AVOID, window=window)
    units = {stage: list(work.ledger.keys(stage)) for stage in ("latents", "sources")}
    after = encoded(work)
    assert {stage: list(work.ledger.keys(stage)) for stage in ("latents", "sources")} == units
    assert (after["latents_key"], after["source_key"]) == (before["latents_key"], before["source_key"])
    assert encoded(work)["timings"][0]["reused"]  # what was measured is stored: the file is not opened again
    assert before["screen_because"] == "" and before["screen_cuts"] is None and after["screen_cuts"] == 2 * parts - 2


def test_a_window_moves_behind_the_cut(folder: Path) -> None:
    """Five frames, a cut, nine frames: the window is the second scene, from its first frame on, under another key."""
    write(folder / "a.mp4", clip(1)[:5], clip(2))
    before, work = encoded(work_at(folder, "root", IGNORE)), work_at(folder, "root", AVOID)
    after = encoded(work)
    assert after["latents_key"] != before["latents_key"] and after["source_key"] != before["source_key"]
    assert np.abs(source_frames(work, after) - seen(clip(2))).mean() < 4
    assert (after["screen_cuts"], after["screen_start_s"]) == (1, 5.25 / 8)
    again = encoded(work)
    assert again["timings"][0]["reused"] and again["latents_key"] == after["latents_key"]


def test_all_windows_lie_in_scenes(folder: Path) -> None:
    """4 frames, 20 frames, 9 frames, with cuts between: two windows in the second scene, one in the third."""
    long = np.concatenate([clip(2), clip(2)[::-1], clip(2)[:2]])
    write(folder / "a.mp4", clip(1)[:4], long, clip(3))
    work = work_at(folder, "root", AVOID, window="all")
    records = planned(work)
    done = [encode_clip(work, record) for record in records]
    assert [record["window"] for record in done] == [0, 1, 2]
    assert [record["screen_start_s"] for record in done] == [4.25 / 8, 13.25 / 8, 24.25 / 8]
    assert len({record["latents_key"] for record in done}) == 3
    assert np.abs(source_frames(work, done[2]) - seen(clip(3))).mean() < 4


@pytest.mark.parametrize("window", ["first", "middle", "all"])
def test_parts_of_clips_are_looked_at_alone(folder: Path, window: str) -> None:
    """A manifest's parts that begin and end at cuts, as data sets of shots have them, keep windows and keys; one with a
    cut inside has its window moved; frames before a part are not counted."""
    write(folder / "a.mp4", *(clip(seed) for seed in range(1, 6)))
    parts = [(1.125, 2.25), (3.375, 4.5), (2.0, 4.5)]
    rows = [{"clip": "a.mp4", "target_prompts": ["x"], "start": start, "end": end} for start, end in parts]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(spec: ScreenSpec) -> list[Record]:
        work = work_at(folder, "root", spec, window=window)
        asked = work.dataset.model_copy(update={"source": str(folder / "m.jsonl")})
        work = Work(asked, *toy_run.settings(work.output.root)[1:], MODEL, work.ledger, screen=spec)
        return [encode_clip(work, record) for record in planned(work) if not record["window"]]

    before, after = run(IGNORE), run(AVOID)
    same = [one["latents_key"] == other["latents_key"] for one, other in zip(before, after, strict=True)]
    assert same == [True, True, False]
    assert [record["screen_cuts"] for record in after][:2] == [0, 0] and after[2]["screen_cuts"]
    assert [record["screen_start_s"] for record in after][:2] == [1.125, 3.375]
    assert round(8 * after[2]["screen_start_s"]) == 18  # the second scene's nine frames, and no others


def test_a_clip_of_short_scenes_is_refused(folder: Path) -> None:
    """One sentence with the times of the cuts and what to do; the plan says it too where it opens clips."""
    write(folder / "a.mp4", clip(1)[:5], clip(2)[:5], clip(3)[:5])
    work = work_at(folder, "root", AVOID)
    for failed in (encoded(work), *planned(work_at(folder, "root", AVOID, window="all"))):
        assert (failed["error"], failed["kind"], failed["stage"]) == ("ScenesTooShort", "bad_input", "screen")
        assert failed["message"] == (
            "clip 'a.mp4': its cuts (at 0.62, 1.25 s) leave no scene of the 1.125 s that 9 frames at 8 fps need; "
            "cut it up, lower dataset.frames, or set screen.cuts to ignore"
        )
    assert not is_failure(encoded(work_at(folder, "root", IGNORE)))


def test_the_window_of_an_edited_first_frame_or_mask_stays(folder: Path) -> None:
    """They belong to the window, which is not moved then; the cut in it is told. A mask that is found moves along."""
    write(folder / "a.mp4", clip(1)[:5], clip(2))
    screening = work_at(folder, "root", AVOID).screening
    found = video.probe(folder / "a.mp4", "a.mp4", video.Limits.of(screening.dataset))
    for own in ({"image_uri": "i.png"}, {"mask": "[[0, 0, 8, 8]]"}, {"mask": "auto"}):
        record = planned(work_at(folder, "root", AVOID))[0] | own
        told = screen.placed(screening, record, screen.screened(screening, record, folder / "a.mp4", "0" * 64, found))
        stays = own != {"mask": "auto"}
        assert (told.number, told.start_s) == ((0, 0.0) if stays else (None, 5.25 / 8))
        assert ("edited first frame or mask" in told.columns["screen_because"]) == stays


BAD = {
    "least_luma": (clip(1) // 16, "luma"),
    "most_black": (np.concatenate([clip(1)[:4] * 0, clip(1)[:5]]), "black"),
    "most_frozen": (np.concatenate([clip(1)[:3], np.repeat(clip(1)[3:4], 6, 0)]), "frozen"),
    "least_moving": (np.repeat(clip(1)[:1], 9, 0), "moving"),
}


@pytest.mark.parametrize("limit", BAD)
def test_limits_mark_or_drop(folder: Path, limit: str) -> None:
    """Each limit finds the clip that was made for it and passes a plain one. mark: the reason is in the record. drop:
    kind `screened`, no retry, and nothing is decoded for the model nor encoded."""
    frames, word = BAD[limit]
    usual = {limit: getattr(ScreenSpec(preset="usual"), limit), "cuts": "ignore"}
    write(folder / "a.mp4", frames)
    work = work_at(folder, "root", ScreenSpec(**usual, action="drop"))
    for _ in range(2):  # the second time from what is stored
        failed = encoded(work)
        assert (failed["kind"], failed["stage"], failed["retryable"]) == ("screened", "screen", False)
    assert word in failed["message"] and "screen.action" in failed["message"]
    assert [stage for stage in ("latents", "sources") if list(work.ledger.keys(stage))] == []  # type: ignore[arg-type]
    assert word in encoded(work_at(folder, "root", ScreenSpec(**usual)))["screen_because"]
    write(folder / "a.mp4", clip(5))
    assert encoded(work_at(folder, "root", ScreenSpec(**usual)))["screen_because"] == ""


def test_text_is_looked_for_where_it_is_asked(folder: Path) -> None:
    """A clip that its detector finds full is marked or dropped, with its share; a run that does not ask measures none,
    and what it has measured is not measured again; without a detector the setting is refused."""
    network, white = str(bright_is_text(folder.parent / "net.onnx")), np.full_like(clip(1), 255)
    write(folder / "a.mp4", white)
    plain = encoded(work_at(folder, "root", AVOID))
    asked = ScreenSpec(most_text=0.5, text_model=network)
    marked = encoded(work_at(folder, "root", asked))
    assert plain["screen_text"] is None and plain["screen_because"] == ""
    assert marked["screen_text"] == 1 and marked["screen_because"] == "text 1 is above 0.5"
    assert marked["latents_key"] == plain["latents_key"] and marked["source_key"] == plain["source_key"]
    assert encoded(work_at(folder, "root", asked.model_copy(update={"action": "drop"})))["kind"] == "screened"
    assert len(list(work_at(folder, "root", AVOID).ledger.keys("screens"))) == 2
    write(folder / "a.mp4", clip(5) // 2)
    assert encoded(work_at(folder, "root", asked))["screen_because"] == ""
    with pytest.raises(ValueError, match="most_text needs text_model"):
        ScreenSpec(most_text=0.5)
    with pytest.raises(ModelError, match=r"screen\.text_model"):
        _ = work_at(folder, "root", ScreenSpec(most_text=0.5, text_model="gone.onnx")).screening


def near_copy(path: Path, frames: np.ndarray) -> None:
    large = np.stack([cv2.resize(frame, (96, 80)) for frame in frames])
    video.encode(large, path, 8, crf=30)


def test_duplicates_in_the_order_of_the_plan(folder: Path) -> None:
    """exact finds the copied bytes, near the resized one too; the first stays; drop refuses, mark names the first."""
    write(folder / "a.mp4", clip(1))
    write(folder / "b.mp4", clip(2))
    (folder / "c.mp4").write_bytes((folder / "a.mp4").read_bytes())
    near_copy(folder / "d.mp4", clip(1))

    def first_of(**asked: Any) -> list[str | None]:
        return [record.get("duplicate_of") for record in planned(work_at(folder, "root", ScreenSpec(**asked)))]

    assert first_of() == [None] * 4
    assert first_of(duplicates="exact", cuts="ignore") == ["", "", "a.mp4", ""]
    assert first_of(duplicates="near") == ["", "", "a.mp4", "a.mp4"]
    work = work_at(folder, "root", ScreenSpec(duplicates="near", action="drop"))
    told = write_plan(work.output.root, planned(work), work.recipe, work.engine)
    assert (told["clips"], told["refused"], told["screened"]) == (2, 2, 2)
    assert [row["message"].split(";")[0] for row in read_refused(work.output.root)] == [
        f"clip {name!r}: it shows 'a.mp4' again" for name in ("c.mp4", "d.mp4")
    ]


def test_marked_duplicates_come_through_the_plan(folder: Path) -> None:
    """The name stands in the planned record that workers get, and in what they hand on; plans without duplicates have
    the hash that they had."""
    write(folder / "a.mp4", clip(1))
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes())
    work = work_at(folder, "root", ScreenSpec(duplicates="exact"))
    write_plan(work.output.root, planned(work), work.recipe, work.engine)
    rows = pq.read_table(f"{work.output.root}/plan/clips.parquet").to_pylist()
    assert [row["duplicate_of"] for row in rows] == ["", "a.mp4"]
    assert encode_clip(work, rows[1])["screen_because"] == "it shows 'a.mp4' again"
    (folder / "b.mp4").unlink()
    alone, none = write_plan(work.output.root, planned(work), work.recipe, work.engine), work_at(folder, "root", IGNORE)
    assert alone["plan"] == write_plan(none.output.root, planned(none), none.recipe, none.engine)["plan"]


def test_rows_of_one_file_are_no_duplicates(folder: Path) -> None:
    """Two rows of a manifest that name the same clip with other prompts."""
    write(folder / "a.mp4", clip(1))
    write(folder / "b.mp4", clip(2))
    lines = [{"clip": name, "target_prompts": [name + str(i)]} for i, name in enumerate(("a.mp4", "b.mp4", "a.mp4"))]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = DatasetSpec(source=str(folder / "m.jsonl"))
    found = plan.planned_clips(dataset, MODEL, screen=ScreenSpec(duplicates="near"))
    assert [record["duplicate_of"] for record in found] == ["", "", ""]


def test_hostile_clips_fail_as_everywhere(folder: Path) -> None:
    """A text file, an empty one and a good one, opened several at a time: the order stays, each says what it is."""
    write(folder / "c.mp4", clip(1))
    (folder / "a.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n")
    (folder / "b.mp4").write_bytes(b"")
    found = planned(work_at(folder, "root", ScreenSpec(duplicates="near")))
    assert [record.get("error") for record in found] == ["NotAVideo", "EmptyClip", None]
    assert [record["clip"] for record in found] == ["a.mp4", "b.mp4", "c.mp4"]


def test_opening_several_at_a_time_keeps_the_order_and_stays_bounded() -> None:
    """A hundred thousand clips are never all asked for before the first comes back."""
    asked: list[int] = []

    def clips() -> Any:
        for number in range(100_000):
            asked.append(number)
            yield {"number": number}

    found = plan.several(lambda clip: clip, clips())
    assert [next(found)["number"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(asked) < 1000
    found.close()  # type: ignore[attr-defined]


def test_columns_reach_the_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits of a clip whose window was moved: the table and metadata.jsonl say where, and what was measured."""
    monkeypatch.setattr(edit, "batch_size", lambda *_: 2)
    write(folder / "a.mp4", clip(1)[:5], clip(2))
    work = work_at(folder, "root", AVOID)
    embed_missing(work.model, work.ledger, ["", "a blue circle"], "size")
    done = [edit.edit_clip(work, trajectory.invert_clip(work, encode_clip(work, record))) for record in planned(work)]
    tables.collect_run(work.output, work.ledger, done, {})
    (row,) = tables.read_table(work.output.root, "edits")
    assert (row["screen_cuts"], row["screen_start_s"], row["screen_because"]) == (1, 5.25 / 8, "")
    (line,) = Path(work.output.root, "dataset/metadata.jsonl").read_text().splitlines()
    assert json.loads(line)["screen_luma"] == row["screen_luma"] > 0


def test_settings_of_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """usual fills the limits left at 0; a wave's results depend on the screen only where it is not the default's."""
    spec = ScreenSpec(preset="usual", least_luma=5)
    assert spec.limits == {"least_luma": 5, "most_black": 0.2, "most_frozen": 0.5, "least_moving": 0.005}
    assert ScreenSpec(**spec.as_json()) == spec and not AVOID.limits and AVOID.looks and not IGNORE.looks
    groups: Record = {"dataset": DatasetSpec(), "model": ModelSpec(), "inversion": InversionSpec()}
    groups |= {"recipe": RecipeSpec(), "output": OutputSpec(), "engine": EngineSpec()}
    hashed: list[Any] = []
    monkeypatch.setattr("tasks.settings.fingerprint", lambda value: hashed.append(value) or "")
    for screen_spec in (AVOID, spec):
        assert Settings(**groups, screen=screen_spec).results == ""
    assert hashed[1] == hashed[0] | {"screen": spec.as_json()} and "screen" not in hashed[0]


def test_the_unscreened_are_told_so() -> None:
    """Nothing to look for: nothing is opened, and the figures are empty."""
    screening = Screening(IGNORE, DatasetSpec(), VideoShape(9, 16, 16, 8))
    record: Any = {"clip": "a.mp4", "window": 3, "image_uri": ""}
    assert screen.known(screening, record, "0" * 64) == {}
    told = screen.placed(screening, record, {})
    assert told.number == 3 and told.start_s is None and told.columns["screen_luma"] is None

"""Long clips as one: how they are cut up, and their way through encode, invert and edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.dataset import tables
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.errors import BadSpec, ClipTooShort
from cogvideo_core.media import film, video
from cogvideo_core.models import model
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.planning import estimate, plan
from cogvideo_core.planning.tables import read_batches, write_plan
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import build, world
from cogvideo_core.stages import edit as edit_stages
from cogvideo_core.stages import gate, trajectory, whole
from cogvideo_core.stages.encode import encode_clip, read_latents
from cogvideo_core.stages.failures import attempt, failure, is_failure
from cogvideo_core.stages.invert import source_frames
from cogvideo_core.stages.judge import stored_frames
from cogvideo_core.stages.whole import Rule, Scene, Whole
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.upkeep import verify

Record = dict[str, Any]
Works = Callable[..., Work]
STEPS = 4
INVERSION = InversionSpec(method="fixed_point", steps=STEPS, gate="off")
RULE = Rule(9, 8, 1, 1, 9)
PAIRS = Rule(81, 16, 4, 2, 9)
FRAMES, SHOWN, CUT, WINDOWS = 34, 32, 19, 5  # of long.mp4; its last scene has 15 frames, of which 13 are edited


def probe(frames: int, fps: int = 8) -> Any:
    """What is known of a clip of so many frames."""
    numbers = {"width": 48, "height": 48, "fps": Fraction(fps), "frames": frames, "seconds": frames / fps}
    return video.Probe(sample_aspect=Fraction(1), has_audio=False, rotation=0, **numbers)


@given(frames=st.integers(9, 400), cuts=st.lists(st.integers(1, 399), max_size=6), rule=st.sampled_from([RULE, PAIRS]))
def test_a_clip_is_cut_up_without_a_gap(frames: int, cuts: list[int], rule: Rule) -> None:
    """Scenes follow each other from frame 0 on, none shorter than the least; each is held by its windows, which look a
    few frames behind its cut at most; only frames at the clip's end are left out, fewer than a latent frame's."""
    rule = rule._replace(fps=8)
    found = whole.cut_up(probe(frames), "a.mp4", video.Part(), [Fraction(cut, 8) for cut in cuts], rule)
    assert Whole.model_validate_json(found.text) == found
    begin = 0
    for scene, layout in zip(found.scenes, found.layouts, strict=True):
        assert scene.begin == begin and scene.frames >= rule.least - found.trimmed
        assert layout.frames == scene.covered and 0 <= scene.covered - scene.frames < rule.step
        assert begin + scene.covered <= found.frames
        begin += scene.frames
    assert found.scenes[-1].covered == found.scenes[-1].frames
    assert begin == found.frames == frames - found.trimmed and found.trimmed < rule.step
    assert {scene.begin for scene in found.scenes} <= {0, *cuts}
    assert len(found.windows) == sum(map(len, found.layouts))


@pytest.mark.parametrize(("fps", "cut", "first"), [(24, 57, 19), (30, 60, 16), (25, 50, 16), (8, 19, 19)])
def test_a_scene_begins_with_the_first_frame_that_shows_it(fps: int, cut: int, first: int) -> None:
    """The source's frame `cut` is the nearest one at frame `first` of the model's, and not before."""
    found = whole.cut_up(probe(300, fps), "a.mp4", video.Part(), [Fraction(cut, fps)], RULE)
    assert [scene.begin for scene in found.scenes] == [0, first]
    nearest = [int(Fraction(k, 8) * fps + Fraction(1, 2)) for k in (first - 1, first)]
    assert nearest[0] < cut <= nearest[1]


def test_short_scenes_are_edited_with_their_neighbours() -> None:
    """A flash of three frames belongs to the scene before it, one at the beginning to the scene after it; a clip that
    is shorter than the shortest scene is refused."""
    cuts = [Fraction(frame, 8) for frame in (3, 20, 23)]
    found = whole.cut_up(probe(45), "a.mp4", video.Part(), cuts, RULE)
    assert [scene.begin for scene in found.scenes] == [0, 20]
    with pytest.raises(ClipTooShort, match=r"'a.mp4': 0.750 s are fewer than the 1.125 s of 9 frames at 8 fps; use"):
        whole.cut_up(probe(6), "a.mp4", video.Part(), [], RULE)


@pytest.mark.parametrize(("frames", "fps", "padding", "overlap"), [(49, 8, 0, 2), (81, 16, 1, 4), (9, 8, 0, 1)])
def test_the_overlap_is_a_sixth_of_a_window(frames: int, fps: int, padding: int, overlap: int) -> None:
    """Unless it is given; one that is too large for a window, or that nothing uses, is refused in one sentence."""
    about: Any = type("About", (), {"front_padding": padding, "fixed_frames": False})
    shape = VideoShape(frames, 48, 48, fps)
    assert whole.rule_of(DatasetSpec(window="whole"), shape, about).overlap == overlap
    assert whole.rule_of(DatasetSpec(window="whole", overlap=1), shape, about).overlap == 1
    with pytest.raises(BadSpec, match="overlap: 60 is not in"):
        whole.check_overlap(DatasetSpec(window="whole", overlap=60), shape, about)
    with pytest.raises(BadSpec, match="only window=whole"):
        whole.check_overlap(DatasetSpec(overlap=1), shape, about)


def long_record(name: str = "a") -> Record:
    text = Whole(rule=RULE, begin_s=0.0, scenes=(Scene(0, 17, 17), Scene(17, 13, 13)), trimmed=2).text
    return {"clip": name, "whole": text, "window": 0, "window_keys": [{"latents_key": str(n)} for n in range(4)]}


@pytest.mark.parametrize("shares", [1, 2, 3, 8])
def test_windows_become_their_clips_again(shares: int) -> None:
    """Whatever the shares: each window is in one of them, and clips and failures come back in their order, with the
    timings of all their windows; one failed window fails its clip, and says which it was."""
    lost = failure({"clip": "lost", "source_id": "x"}, "encode", ValueError("no"), 1)
    batch = [{"clip": "short", "window": 0}, long_record(), lost, long_record("b") | {"timings": [{"stage": "encode"}]}]
    parts = [whole.share_of(batch, share, shares) for share in range(shares)]
    each = [window for part in parts for window in part]
    assert [window.get("latents_key") for window in each if window["clip"] == "a"] == ["0", "1", "2", "3"]
    done = [
        failure(window, "invert", ValueError(f"clip {window['clip']!r}: it is poor; remove it"), 1)
        if window["clip"] == "b" and window["window"] == 2
        else window
        if is_failure(window)
        else window | {"timings": [*window.get("timings", []), {"stage": "invert"}]}
        for window in each
    ]
    short, long, again, failed = whole.joined(done)
    assert short["clip"] == "short" and again is lost
    assert len(long["windows"]) == 4 and len(long["timings"]) == 4 and "of" not in long
    assert is_failure(failed) and failed["window"] == 0 and "whole" not in failed
    assert failed["message"] == "clip 'b', window 3 of 4 (from 2.125 s): it is poor; remove it"


@pytest.fixture(scope="module")
def loaded(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


def bounced(seed: int, frames: int) -> np.ndarray:
    """A shape that moves to and fro, without a cut."""
    there = world.render(world.scene_from_seed(seed))
    return np.concatenate([there, there[-2::-1], there[1:], there[-2::-1]])[:frames]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """long.mp4 has a scene of 19 frames and one of 15; one.mp4 has 11 frames, short.mp4 15 with nothing to overlap."""
    path = tmp_path_factory.mktemp("clips")
    video.encode(np.concatenate([bounced(5, CUT), bounced(6, FRAMES - CUT)]), path / "long.mp4", 8, crf=1)
    video.encode(bounced(5, 11), path / "one.mp4", 8)
    return path


@pytest.fixture
def works(loaded: model.VideoModel, folder: Path, tmp_path: Path) -> Works:
    def make(root: str = "run", window: str = "whole", **groups: Any) -> Work:
        output = OutputSpec(**({"root": str(tmp_path / root)} | groups.get("output", {})))
        return Work(
            DatasetSpec(source=str(tmp_path / "m.jsonl"), window=window, **groups.get("dataset", {})),
            InversionSpec(**(INVERSION.as_json() | groups.get("inversion", {}))),
            RecipeSpec(**groups.get("recipe", {})),
            output,
            EngineSpec(**groups.get("engine", {})),
            groups.get("model", loaded),
            Ledger(output.root),
            screen=ScreenSpec(),
        )

    return make


def planned(work: Work, folder: Path, clip: str = "long.mp4", **more: Any) -> Record:
    """The record that a plan holds: written, and read again."""
    row = {"clip": str(folder / clip), "source_prompt": "a circle", "target_prompts": ["a blue circle"], **more}
    Path(work.dataset.source).write_text(json.dumps(row) + "\n")
    dataset = work.dataset.model_copy(update={"allow_outside": True})
    found = plan.planned_clips(dataset, work.model, screen=work.screen, ledger=work.ledger)
    write_plan(work.output.root, found, work.recipe, work.engine)
    return next(iter(read_batches(work.output.root)))[0]


def edited(work: Work, record: Record) -> Record:
    return edit_stages.edit_clip(work, trajectory.invert_clip(work, encode_clip(work, record)))


def counts(work: Work) -> Record:
    stages: Any = ("latents", "trajectories", "sources", "edits", "progress")
    return {stage: len(list(work.ledger.units(stage))) for stage in stages}


def frames_of(work: Work, row: Record) -> np.ndarray:
    commit = work.ledger.find("edits", row["edit_key"])
    assert commit is not None
    return stored_frames(work.ledger, commit, "edit.mp4", row)


def test_a_long_clip_is_one_edit(works: Works, folder: Path) -> None:
    """One row in the plan, a unit of latents and one of states for each window, one edit as long as the clip but for
    what no latent frame holds; what it costs is counted; the second run computes nothing."""
    work = works()
    record = planned(work, folder)
    before = work.model.evaluations
    done = edited(work, record)
    (row,) = done["edits"]
    assert counts(work) == {"latents": WINDOWS, "trajectories": WINDOWS, "sources": 1, "edits": 1, "progress": 0}
    assert (row["windows"], row["scenes"], row["trimmed_frames"], row["screen_cuts"]) == (WINDOWS, 2, 2, 1)
    assert (row["frames"], row["fps"], len(frames_of(work, row))) == (SHOWN, 8, SHOWN)
    made = work.model.evaluations - before
    assert made == sum(timing["evaluations"] for timing in done["timings"])
    assert made == WINDOWS * (2 * STEPS + edit_evaluations(work.recipe, STEPS, 1, work.model.layers))
    again = edited(work, record)
    assert work.model.evaluations == before + made and again["edits"][0]["reused"]
    assert all(timing["reused"] for timing in again["timings"])
    collected = tables.collect_run(work.output, work.ledger, [done], {})
    assert (collected["edits"], collected["clips"], collected["errors"]) == (1, 1, 0)
    assert not list(verify.verify_tree(work.output.root))


def test_the_source_is_the_whole_clip(works: Works, folder: Path) -> None:
    """Its video and what the VAE makes of it show each frame at its time, on both sides of the cut."""
    work = works()
    record = trajectory.invert_clip(work, encode_clip(work, planned(work, folder)))
    given = np.concatenate([bounced(5, CUT), bounced(6, FRAMES - CUT)])[:SHOWN]
    own = given.astype(int)
    shown = source_frames(work, record, SHOWN).astype(int)
    assert np.abs(shown - own).mean((1, 2, 3)).max() < 6
    for window, place in zip(record["windows"], whole.parsed(record["whole"]).windows, strict=True):
        begin, stop = place.shown, min(place.shown + 5, SHOWN)
        part = source_frames(work, {key: window[key] for key in window if key != "windows"}, stop - begin)
        assert np.array_equal(part, shown[begin:stop])
    windows = record["windows"]
    first, second = (read_latents(work, windows[n]["latents_key"])["latents"] for n in (0, 1))
    assert first[2].equal(second[0])  # what neighbours share is equal
    alone, after = work.model.encode_sequence(given[CUT:])[:3], work.model.encode_sequence(given[CUT - 4 :])[1:4]
    behind = read_latents(work, windows[3]["latents_key"])["latents"]
    assert (behind - alone).abs().mean() < 0.5 * (behind - after).abs().mean()  # a scene begins anew


@pytest.mark.parametrize("clip", ["one.mp4", "long.mp4"])
def test_a_clip_of_one_window_is_the_edit_of_before(works: Works, folder: Path, clip: str) -> None:
    """Keys, bytes and reuse are those of window=first where one window is all there is; in a longer clip the first
    window of several has keys of its own."""
    first = works(window="first")
    before = edited(first, planned(first, folder, clip))
    work = works()
    record = planned(work, folder, clip)
    spent = work.model.evaluations
    after = edited(work, record)
    same = after["edits"][0]["edit_key"] == before["edits"][0]["edit_key"]
    assert same == (clip == "one.mp4") == (work.model.evaluations == spent) == (not record["whole"])


def test_a_short_clip_is_one_short_window(works: Works, folder: Path) -> None:
    """With a model of 17 frames a clip of 11 is a window of 9, as dataset.frames=9 gives it."""
    work, plain = works(dataset={"frames": 17}), works("plain", window="first", dataset={"frames": 9})
    done, other = edited(work, planned(work, folder, "one.mp4")), edited(plain, planned(plain, folder, "one.mp4"))
    assert done["edits"][0]["edit_key"] == other["edits"][0]["edit_key"]
    assert (done["edits"][0]["frames"], done["edits"][0]["trimmed_frames"]) == (9, 2)


def test_scenes_of_one_window_share_their_units(works: Works, folder: Path) -> None:
    """A scene that is a single window has the keys that such a clip has, and an edit of several scenes is made."""
    work = works(dataset={"frames": 17})
    done = edited(work, planned(work, folder))
    assert done["edits"][0]["windows"] == 3 and counts(work)["trajectories"] == 3
    first = works(window="first", dataset={"frames": 17})
    assert first.find("latents", encode_clip(first, planned(first, folder))["latents_key"])


def test_the_key_holds_how_a_clip_is_cut_up(works: Works, folder: Path) -> None:
    """Another overlap, or cuts that are ignored, are another edit; nothing else of the settings of windows is."""
    keys = set()
    for number, dataset in enumerate(({}, {"overlap": 2}, {"overlap": 1})):
        work = works(f"{number}", dataset=dataset)
        (asked,) = trajectory.plan_edits(work, encode_clip(work, planned(work, folder)))
        keys.add(asked["edit_key"])
    work = replace(works("3"), screen=ScreenSpec.none())
    (asked,) = trajectory.plan_edits(work, encode_clip(work, planned(work, folder)))
    assert len(keys) == 2 and asked["edit_key"] not in keys


@pytest.mark.parametrize("keep", ["until_edited", "none"])
def test_trajectories_go_when_the_edit_is_made(works: Works, folder: Path, keep: str) -> None:
    """All of them, and a second run makes none again; without keeping them the edit is the same."""
    calm, work = works("calm"), works(output={"keep_trajectories": keep})
    work = replace(work, output=work.output.model_copy(update={"root": works().output.root}), ledger=works().ledger)
    kept, gone = edited(calm, planned(calm, folder)), edited(work, planned(work, folder))
    assert counts(work)["trajectories"] == 0 and counts(calm)["trajectories"] == WINDOWS
    assert np.array_equal(frames_of(calm, kept["edits"][0]), frames_of(work, gone["edits"][0]))
    before = work.model.evaluations
    assert edited(work, planned(work, folder))["edits"][0]["reused"] and work.model.evaluations == before


def test_a_window_that_the_gate_rejects_fails_the_clip(
    works: Works, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one sentence that names the window; what was inverted is not inverted again."""
    work = works(inversion={"method": "ddim", "gate": "quick", "gate_threshold_db": 100.0})
    judged, poor = gate.judged, iter([False, False, True])

    def once(*given: Any) -> Record:
        report = judged(*given)
        return report | ({"passed": False} if next(poor, False) else {})

    monkeypatch.setattr(gate, "judged", once)
    monkeypatch.setattr(gate, "tries", lambda settings: iter([settings]))
    encoded = encode_clip(work, planned(work, folder))
    windows = [
        attempt(lambda r: trajectory.invert_clip(work, r), window, "invert") for window in whole.windows_of(encoded)
    ]
    (failed,) = whole.joined(windows)
    assert (failed["stage"], failed["error"]) == ("invert", "PoorReconstruction")
    assert "window 3 of 5 (from 1.5 s): its reconstruction is" in failed["message"]


def test_the_worst_window_stands_in_the_row(works: Works, folder: Path) -> None:
    """The scores of the reconstruction are those of the window that lost most."""
    work = works(inversion={"method": "ddim", "gate": "quick", "gate_threshold_db": 100.0})
    inverted = trajectory.invert_clip(work, encode_clip(work, planned(work, folder)))
    reports = [window["reconstruction"]["below_vae_db"] for window in inverted["windows"]]
    (row,) = edit_stages.edit_clip(work, inverted)["edits"]
    assert row["scores"]["reconstruction_below_vae_db"] == max(reports) > min(reports)


@pytest.mark.parametrize(
    ("row", "recipe", "said"),
    [
        ({"mask": "auto"}, {}, "its mask can't be found, for it is edited in 5 windows; give a mask"),
        ({}, {"colour_transfer": True}, "asks for recipe.colour_transfer, which needs one window; turn it off"),
    ],
)
def test_what_several_windows_can_not_have_is_refused(
    works: Works, folder: Path, row: Record, recipe: Record, said: str
) -> None:
    """In one sentence that names the clip and a remedy."""
    work = works(recipe=recipe)
    failed = attempt(lambda record: edited(work, record), planned(work, folder, **row), "edit")
    assert failed["error"] == "ClipError" and "long.mp4" in failed["message"] and said in failed["message"]


def test_a_mask_holds_the_whole_clip(works: Works, folder: Path, tmp_path: Path) -> None:
    """A mask over all frames of the clip: what is outside of it stays, in every scene and window."""
    mask = np.zeros((FRAMES, 48, 48), bool)
    mask[:, 8:24, 8:24] = True
    np.savez_compressed(tmp_path / "mask.npz", mask=mask)
    work = works()
    work = replace(work, mask=work.mask.model_copy(update={"paste": True, "grow_px": 0, "feather_px": 0}))
    (row,) = edited(work, planned(work, folder, mask=str(tmp_path / "mask.npz")))["edits"]
    found, source = frames_of(work, row).astype(int), source_frames(work, row | {"clip": "a"}, SHOWN).astype(int)
    apart = np.abs(found - source).mean(-1)
    assert apart[:, 30:, 30:].mean() < 3 and apart[:, 10:22, 10:22].mean() > 5


@pytest.mark.parametrize("variant", ["5b-i2v", "1.5-5b", "1.5-5b-i2v"])
def test_every_kind_of_model(works: Works, folder: Path, variant: str) -> None:
    """Pairs of latent frames, and first frames: each window sees the source's at its beginning; one that is given
    belongs to one window."""
    small = model.VideoModel(build.build_pipeline(variant), ModelSpec())
    work = works(model=small, recipe={"guidance_scale": 1.0})
    record = planned(work, folder)
    if whole.parsed(record["whole"]).layouts[0].length == SHOWN:
        pytest.skip("one window")
    (row,) = edited(work, record)["edits"]
    assert row["windows"] > 1 and len(frames_of(work, row)) == row["frames"]
    if small.image_to_video:
        (failed,) = plan.planned_clips(
            work.dataset.model_copy(update={"allow_outside": True}), small, screen=work.screen, ledger=work.ledger
        )
        assert not is_failure(failed)


def test_the_plan_counts_windows(works: Works, folder: Path) -> None:
    """Clips, windows and what their overlap adds; the estimate counts each window's inversion and steps."""
    work = works()
    planned(work, folder)
    found = json.loads((Path(work.output.root) / "plan/plan.json").read_text())
    latents = {"window_latents": 3 * WINDOWS, "clip_latents": 6 + 4}
    assert found.items() >= ({"clips": 1, "long_clips": 1, "windows": WINDOWS} | latents).items()
    rows = dict(estimate.overlap_of(found))
    assert rows == {
        "windows": "5 of 1 clips that are edited as one",
        "overlap": "50 % more latent frames than without",
    }
    measured = estimate.Measured(step_s=2.0, row_s=3.0, rows=9, edits=4, encode_s=0.5, decode_s=0.25)
    shape, short = work.model.shape, {name: found[name] for name in found if name not in ("long_clips", "windows")}
    both = [
        estimate.estimate(each, measured, work.model, shape, work.inversion, work.recipe) for each in (found, short)
    ]
    assert both[0].inversion_s == WINDOWS * both[1].inversion_s and both[0].edit_s == WINDOWS * both[1].edit_s


def test_waves_of_long_clips_hold_fewer(works: Works, tmp_path: Path) -> None:
    """A batch whose windows are inverted in several task runs counts as so many more; others count as before."""
    record: Record = dict.fromkeys(("uri", "source_prompt"), "") | {"target_prompts": ["x"], "size": 0}

    def waves(text: str) -> list[int]:
        rows = [record | {"clip": f"{n}", "source_id": f"{n}", "window": 0, "whole": text} for n in range(12)]
        write_plan(str(tmp_path / text[:3]), rows, RecipeSpec(), EngineSpec(batches_per_wave=4))
        return [batch[0]["wave"] for batch in read_batches(str(tmp_path / text[:3]))]

    assert waves("") == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    long = waves(str(long_record()["whole"]))
    tasks = [sum(2 + 4 for wave in long if wave == n) for n in range(max(long) + 1)]
    assert sorted(long) == long and max(tasks) <= 3 * 4 and {*long} == {*range(max(long) + 1)}


def test_a_film_is_its_frames(tmp_path: Path) -> None:
    """On disk and in parts as in memory, also where it is decoded; a film that stands still is seen."""
    frames = np.random.default_rng(0).integers(0, 255, (7, 4, 6, 3), np.uint8)
    found = film.on_disk(film.in_parts(frames, 3))
    assert isinstance(found, np.memmap) and np.array_equal(found, frames)
    assert not film.stands_still(found) and film.stands_still(np.repeat(frames[:1], 100, 0))
    assert not film.stands_still(frames[:1])
    with pytest.raises(ValueError, match="frames"):
        film.on_disk([])


def test_a_long_video_is_decoded_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same frames as at once, from any time on."""
    path, limits, view = folder / "long.mp4", video.Limits.of(DatasetSpec()), video.View(48, 48, 8)
    found, window = video.probe(path, "a", limits), video.Window(0, 0.25, 30)
    whole_film = video.decode(path, "a", found, window, view, limits)
    monkeypatch.setattr(film, "AT_ONCE", 4)
    parts = film.decoded(path, "a", found, window, view, limits)
    assert isinstance(parts, np.memmap) and np.array_equal(parts, whole_film)

"""Masks on a clip's way: from any kind of file to the edit, its key and its scores; hostile files; found masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogvideo_core.dataset import tables
from cogvideo_core.diffusion import auto_masks
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.media import video
from cogvideo_core.models import model
from cogvideo_core.planning import plan
from cogvideo_core.planning.tables import write_plan
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages import edit as edit_stages
from cogvideo_core.stages import masks, trajectory
from cogvideo_core.stages.encode import encode_clip, read_latents
from cogvideo_core.stages.failures import attempt, is_failure
from cogvideo_core.stages.judge import stored_frames
from cogvideo_core.stages.work import Work
from cogvideo_core.storage import bits
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.upkeep import inspect

Record = dict[str, Any]
STEPS = 4
INVERSION = InversionSpec(method="none", steps=STEPS)
TIGHT = MaskSpec(grow_px=0, feather_px=0)


@pytest.fixture(scope="module")
def loaded(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


def shown() -> np.ndarray:
    """A mask of the clip's frames: bool [9,48,48], another one in each frame."""
    mask = np.zeros((9, 48, 48), bool)
    for frame, own in enumerate(mask):
        own[8:24, 8 + frame : 28 + frame] = True
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip and its mask in every form."""
    path = tmp_path / "input"
    (path / "pngs").mkdir(parents=True)
    video.encode(world.render(world.scene_from_seed(5)), path / "a.mp4", 8)
    mask = shown()
    grey = mask.astype(np.uint8) * 255
    video.encode(np.repeat(grey[..., None], 3, -1), path / "mask.mp4", 8, crf=1)
    np.savez_compressed(path / "mask.npz", mask=mask)
    for frame, picture in enumerate(grey):
        Image.fromarray(picture).save(path / "pngs" / f"{frame}.png")
    Image.fromarray(grey[0]).save(path / "still.png")
    Image.fromarray(255 - grey[0]).save(path / "kept.png")
    return path


def work_of(loaded: model.VideoModel, folder: Path, mask: MaskSpec = TIGHT, **groups: Any) -> Work:
    dataset = DatasetSpec(source=str(folder / "m.jsonl"))
    output, inversion = OutputSpec(root=str(folder.parent / "run")), groups.get("inversion", INVERSION)
    recipe = groups.get("recipe", RecipeSpec())
    return Work(dataset, inversion, recipe, output, EngineSpec(), loaded, Ledger(output.root), mask=mask)


def planned(work: Work, *rows: Any, prompts: tuple[str, ...] = ("a red square",)) -> list[Record]:
    """Records of a manifest with a row for each mask, of the same clip and prompts."""
    lines = [{"clip": "a.mp4", "source_prompt": "a blue circle", "target_prompts": prompts, "mask": m} for m in rows]
    Path(work.dataset.source).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(plan.planned_clips(work.dataset, work.model))


def edited(work: Work, *rows: Any, **more: Any) -> list[Record]:
    def whole(record: Record) -> Record:
        return edit_stages.edit_clip(work, trajectory.invert_clip(work, encode_clip(work, record)))

    return [attempt(whole, record, "edit") for record in planned(work, *rows, **more)]


def encoded(work: Work, *rows: Any) -> list[Record]:
    return [encode_clip(work, record) for record in planned(work, *rows)]


def key_of(record: Record) -> str:
    assert not is_failure(record), record.get("message")
    return str(record["edits"][0]["edit_key"])


FORMS = ["mask.mp4", "mask.npz", "pngs", "pngs/"]


def test_every_form_of_a_mask_is_one_mask(loaded: model.VideoModel, folder: Path) -> None:
    """Video, NPZ, a folder of PNGs and boxes by frame of the same mask give the same unit; a still picture, its
    inverse turned round, and a fixed box do so among each other."""
    work = work_of(loaded, folder)
    records = encoded(work, *FORMS)
    assert len({record["mask_key"] for record in records}) == 1
    assert np.array_equal(masks._stored(work, records[0]["mask_key"]), shown())
    box = f"box {8 / 48} {8 / 48} {20 / 48} {16 / 48}"
    fixed = encoded(work, "still.png", box, [8 / 48, 8 / 48, 20 / 48, 16 / 48])
    turned = encoded(replace(work, mask=MaskSpec(grow_px=0, feather_px=0, invert=True)), "kept.png")
    assert len({record["mask_key"] for record in fixed + turned}) == 1
    by_frame = [[(8 + frame) / 48, 8 / 48, 20 / 48, 16 / 48] for frame in range(9)]
    assert encoded(work, by_frame)[0]["mask_key"] == records[0]["mask_key"]


def test_rows_with_different_masks_stay_apart(loaded: model.VideoModel, folder: Path) -> None:
    """Adjacent rows of one clip share an inversion; each has its own mask in the dataset, and none where told."""
    work = work_of(loaded, folder)
    records = edited(work, "", "still.png", "none")
    assert len({record["trajectory_key"] for record in records}) == 1
    assert key_of(records[0]) == key_of(records[2]) != key_of(records[1])
    tables.collect_run(work.output, work.ledger, records[:2], {})
    lines = [json.loads(line) for line in Path(work.output.root, "dataset/metadata.jsonl").read_text().splitlines()]
    assert sorted(line["mask"] for line in lines) == ["", "still.png"]
    scored = next(line for line in lines if line["mask"])
    assert scored["score_outside_db"] > 0 and scored["score_mask_share"] == pytest.approx(320 / 48**2, abs=1e-4)


def test_settings_that_change_an_edit_are_in_its_key(loaded: model.VideoModel, folder: Path) -> None:
    """Each steering field makes another edit of a row with a mask; none changes one without, nor does the threshold
    where the mask is given."""
    plain, changed = planned_keys(loaded, folder, TIGHT), dict[str, list[str]]()
    for field, value in {"grow_px": 3, "feather_px": 2, "preserve": "latents", "paste": True, "end": 0.5}.items():
        changed[field] = planned_keys(loaded, folder, TIGHT.model_copy(update={field: value}))
    assert all(keys[0] == plain[0] and keys[1] != plain[1] for keys in changed.values())
    assert len({keys[1] for keys in changed.values()}) == len(changed)
    assert planned_keys(loaded, folder, TIGHT.model_copy(update={"threshold": 0.5})) == plain
    assert planned_keys(loaded, folder, TIGHT.model_copy(update={"use": "none"}))[1] == plain[0]


def planned_keys(loaded: model.VideoModel, folder: Path, mask: MaskSpec) -> list[str]:
    """Edit keys of a row without and a row with a mask."""
    work = work_of(loaded, folder, mask)
    records = [encode_clip(work, record) for record in planned(work, "", "still.png")]
    return [trajectory.plan_edits(work, record)[0]["edit_key"] for record in records]


def test_models_score_an_edit_inside_its_mask(loaded: model.VideoModel, folder: Path) -> None:
    """With a text judge, an edit with a mask has the scores of its box, and one without has none; the key is that of a
    run without judges, and a judge that can't be used fails no clip."""
    work = work_of(loaded, folder)
    plain = key_of(edited(work, "still.png")[0])
    judged = replace(work, judge=JudgeSpec(text="shapes"), ledger=Ledger(str(folder.parent / "judged")))
    with_mask, without = edited(judged, "still.png", "none")
    found = with_mask["edits"][0]["scores"]
    assert -1 <= found["box_text_similarity"] <= 1 and 0 <= found["box_text_choice"] <= 1
    assert "outside_lpips" not in found
    assert key_of(with_mask) == plain and not any(name.startswith("box_") for name in without["edits"][0]["scores"])
    gone = replace(judged, judge=JudgeSpec(text="none", lpips="/nowhere"), ledger=Ledger(str(folder.parent / "gone")))
    assert key_of(edited(gone, "still.png")[0]) == plain


def test_outside_is_what_the_vae_makes_of_the_clip(loaded: model.VideoModel, folder: Path) -> None:
    """Latents outside of the mask are the clip's own, bit for bit; with paste its pixels are the source's own."""
    work, seen = work_of(loaded, folder), []
    decode = loaded.decode
    record = encode_clip(work, planned(work, "still.png")[0])
    stored = read_latents(work, record["latents_key"])["latents"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, "decode", lambda latents: seen.append(latents) or decode(latents))
        edited(work, "still.png")
    changed = (seen[0] - stored.half()).abs().amax((0, 1)) > 0
    cell_px = loaded.pixels_a_cell
    assert changed.sum() == (20 // cell_px) * (16 // cell_px) and changed[8 // cell_px, 8 // cell_px]
    (with_paste,) = edited(replace(work, mask=TIGHT.model_copy(update={"paste": True})), "still.png")
    commit = work.ledger.find("edits", key_of(with_paste))
    origin = work.ledger.find("sources", with_paste["source_key"])
    assert commit is not None and origin is not None
    row = with_paste["edits"][0]
    frames, source = (
        stored_frames(work.ledger, unit, name, row) for unit, name in ((commit, "edit.mp4"), (origin, "source.mp4"))
    )
    assert row["scores"]["outside_db"] == 100 and row["scores"]["outside_flicker"] == 0
    assert np.abs(frames[:, 34:].astype(int) - source[:, 34:]).mean() < 3  # what the codec makes of it


def test_done_again_nothing_is_computed(loaded: model.VideoModel, folder: Path) -> None:
    """A second run finds mask, trajectory and edit; another prompt beside a given mask leaves the first edit alone."""
    work = work_of(loaded, folder)
    first = edited(work, "still.png")
    before = loaded.evaluations
    again = edited(work, "still.png")
    assert loaded.evaluations == before and key_of(again[0]) == key_of(first[0])
    more = edited(work, "still.png", prompts=("a red square", "a green square"))
    assert [edit["reused"] for edit in more[0]["edits"]] == [True, False]


def test_found_masks(loaded: model.VideoModel, folder: Path) -> None:
    """auto, by row or for all rows: one more pass at each level for all prompts of a row, counted; the row says auto;
    a given mask goes before; and a row without a source prompt is refused."""
    prompts = ("a red square", "a green square")
    work = work_of(loaded, folder, MaskSpec(use="auto"))
    before = loaded.evaluations
    records = edited(work, "", prompts=prompts)
    spent = loaded.evaluations - before
    looked = len(auto_masks.levels(STEPS)) * 3
    assert spent == edit_evaluations(RecipeSpec(), STEPS, 2, loaded.layers) + looked
    assert sum(timing["evaluations"] for timing in records[0]["timings"]) == spent
    assert [edit["mask"] for edit in records[0]["edits"]] == ["auto", "auto"]
    assert key_of(edited(work_of(loaded, folder), "auto", prompts=prompts)[0]) != key_of(
        edited(work, "none", prompts=prompts)[0]
    )
    assert edited(work, "still.png")[0]["mask_key"] not in ("", "auto")
    (row,) = planned(work, "auto")
    failed = attempt(lambda r: encode_clip(work, r), row | {"source_prompt": ""}, "encode")
    assert "can't be found without a source prompt" in failed["message"]


def test_found_masks_are_planned(loaded: model.VideoModel, folder: Path) -> None:
    """The plan counts what finding masks takes: of rows that ask for it, and of those without a mask where the settings
    do; of none where masks are ignored."""
    work = work_of(loaded, folder)
    rows = planned(work, "auto", "", "still.png", prompts=("a red square", "a green square"))

    def counted(**mask: Any) -> int | None:
        return write_plan(work.output.root, rows, work.recipe, work.engine, "p", MaskSpec(**mask)).get("mask_rows")

    assert [counted(), counted(use="auto"), counted(use="none")] == [3, 6, None]


@pytest.mark.parametrize("preset", ["insert", "remove"])
def test_presets_that_fill_a_mask_need_one(loaded: model.VideoModel, folder: Path, preset: Any) -> None:
    """insert and remove edit inside of a mask, from fresh noise; a row without one is refused."""
    work = work_of(loaded, folder, recipe=RecipeSpec(preset=preset))
    done, failed = edited(work, "still.png", "")
    assert key_of(done) and done["edits"][0]["recipe"] == preset and work.recipe.start == "fresh"
    assert done["edits"][0]["scores"]["outside_below_vae_db"] < 10
    assert f"its recipe '{preset}' fills a mask anew, and it has none" in failed["message"]


def test_outlines_reach_the_tables(loaded: model.VideoModel, folder: Path) -> None:
    """An edit's row has the outline of its mask, also when it is found again, and the gallery gets it; the metadata of
    the dataset does not."""
    work = work_of(loaded, folder)
    records = edited(work, "still.png", "none")
    (again,) = edited(work, "still.png")
    told = records[0]["edits"][0]["mask_outline"]
    assert told.startswith("0:M") and again["edits"][0]["mask_outline"] == told
    tables.collect_run(work.output, work.ledger, records, {})
    page = Path(work.output.root, "index.html").read_text()
    assert page.count(told) == 1 and "mask_outline" not in Path(work.output.root, "dataset/metadata.jsonl").read_text()


def test_a_strip_of_a_mask(loaded: model.VideoModel, folder: Path) -> None:
    """inspect draws six frames of a mask, white where it marks, and needs no model."""
    work = work_of(loaded, folder)
    key = encode_clip(work, planned(work, "mask.npz")[0])["mask_key"]
    ((ledger, commit),) = inspect.find_units(key, work.output.root)
    with Image.open(inspect.save_strip(ledger, commit, "", folder / "strip.png")) as picture:
        strip = np.asarray(picture)
    assert strip.shape == (48, 6 * 48, 3)
    assert np.array_equal(strip[:, :48, 0] > 128, shown()[0]) and np.array_equal(strip[:, -48:, 0] > 128, shown()[-1])


def test_windowed_trajectories_keep_what_masks_read(loaded: model.VideoModel, folder: Path) -> None:
    """With save_steps=window an edit with a mask has the levels that it reads, given or found, and the same result."""
    every = InversionSpec(method="fixed_point", steps=STEPS, gate="off")
    few = every.model_copy(update={"save_steps": "window"})
    for mask in ("still.png", "auto"):
        made = [edited(work_of(loaded, folder, inversion=one), mask)[0] for one in (every, few)]
        assert key_of(made[0]) != key_of(made[1])
        scores = [record["edits"][0]["scores"] for record in made]
        assert scores[0] == scores[1]


REFUSED: dict[str, tuple[Any, str]] = {
    "gone": ("gone.png", "no such file"),
    "outside": ("../secret.png", "outside the source folder"),
    "a link outside": ("link.png", "outside the source folder"),
    "a link in a folder": ("linked", "outside the source folder"),
    "protocol": ("ftp://host/x.png", "not allowed"),
    "text": ("m.jsonl", "it is no file of a known kind"),
    "no folder of pictures": ("empty", "its folder holds 0 pictures"),
    "another shape": ("wide.png", "it has 64x48 pixels and its clip 48x48"),
    "empty": ("black.png", "no pixel of the window is marked"),
    "full": ("white.png", "every pixel of the window is marked"),
    "broken": ("broken.png", "can't be decoded"),
    "broken video": ("broken.mp4", "clip 'a.mp4': mask 'broken.mp4'"),
    "short": ("short.npz", "it has 4 frames, its clip 9 and the window 9"),
    "a number": (3, "its mask is neither text nor a list of four numbers"),
    "three numbers": ("box 0 0 1", "is no box"),
    "beyond the picture": ([0.5, 0, 0.6, 1], "is not inside the picture"),
    "negative": ([-0.5, 0, 0.6, 1], "neither text nor a list of four numbers"),
}


@pytest.mark.parametrize(("value", "told"), REFUSED.values(), ids=REFUSED)
def test_masks_that_cannot_be_used(loaded: model.VideoModel, folder: Path, value: Any, told: str) -> None:
    """One sentence that names the clip, the field and what is wrong; the clip fails alone."""
    black = Image.new("L", (48, 48))
    black.save(folder / "black.png")
    black.save(folder.parent / "secret.png")
    Image.new("L", (48, 48), 255).save(folder / "white.png")
    Image.new("L", (64, 48), 255).save(folder / "wide.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "linked").mkdir()
    (folder / "linked" / "0.png").symlink_to(folder.parent / "secret.png")
    (folder / "empty").mkdir()
    for name in ("broken.png", "broken.mp4"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 99)
    np.savez(folder / "short.npz", mask=np.ones((4, 48, 48), bool))
    (failed,) = edited(work_of(loaded, folder), value)
    assert failed["kind"] == "bad_input" and told in failed["message"]
    assert failed["message"].startswith("clip 'a.mp4': ") and "mask" in failed["message"]


@pytest.mark.parametrize("name", ["a.png", "box of toys.mp4", "./auto"])
def test_file_names_are_no_words(loaded: model.VideoModel, folder: Path, name: str) -> None:
    """Files that are called like a box or like auto are files."""
    (folder / name).write_bytes(b"any")
    (record,) = planned(work_of(loaded, folder), name)
    assert record["mask_uri"] == str(folder / name.removeprefix("./"))


def test_lost_masks_are_made_anew(loaded: model.VideoModel, folder: Path) -> None:
    """A flipped bit in a stored mask is found before it is used; the next run reads the file again."""
    work = work_of(loaded, folder)
    record = encode_clip(work, planned(work, "still.png")[0])
    commit = work.ledger.find("latents", record["mask_key"])
    assert commit is not None
    file = Path(work.ledger.open_url(commit, bits.FILE)[1])
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    failed = attempt(lambda r: edit_stages.edit_clip(work, trajectory.invert_clip(work, r)), record, "edit")
    assert failed["error"] == "CorruptObject"
    assert not is_failure(edited(work, "still.png")[0])


def test_a_found_mask_of_no_difference_is_empty() -> None:
    """Where nothing differs nothing is marked, and the edit is the reconstruction; a clear difference is found whole,
    with its holes, and specks that are nowhere sure are dropped."""
    import torch

    maps = torch.zeros(2, 3, 12, 12)
    assert not auto_masks.found(maps, 0.35).any()
    maps[:, :, 3:7, 3:7] = 1.0
    maps[:, :, 4, 4] = 0.1
    maps[:, :, 10, 10] = 0.5
    found = auto_masks.found(maps, 0.35)
    assert found[:, :, 3:7, 3:7].all() and found.sum() == 2 * 3 * 16

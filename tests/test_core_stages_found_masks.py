"""Masks that a detector or SAM 2 finds, by small random models of transformers' own classes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import finder_models
import numpy as np
import pytest
import torch

from cogvideo_core.errors import ModelError
from cogvideo_core.inputs.masks import by_model, is_file, mask_text, tracked, words
from cogvideo_core.media import masks as pixels
from cogvideo_core.media import video
from cogvideo_core.models import model
from cogvideo_core.models.finders import Detector, Segmenter
from cogvideo_core.planning import plan
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages import found_masks, masks
from cogvideo_core.stages.encode import encode_clip
from cogvideo_core.stages.failures import attempt, is_failure
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]
CPU = torch.device("cpu")
FRAMES = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def loaded(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("finders")
    made = {"owlv2": finder_models.owlv2(place / "owlv2"), "sam2_video": finder_models.sam2(place / "sam2_video")}
    made["grounding-dino"] = finder_models.grounding_dino(place / "dino")
    return made | {"sam2": finder_models.sam2(place / "sam2", video=False)}


@pytest.fixture
def work(loaded: model.VideoModel, tmp_path: Path) -> Work:
    video.encode(world.render(world.scene_from_seed(5)), tmp_path / "a.mp4", 8)
    output, dataset = OutputSpec(root=str(tmp_path / "run")), DatasetSpec(source=str(tmp_path / "m.jsonl"))
    inversion = InversionSpec(method="none", steps=4)
    return Work(dataset, inversion, RecipeSpec(), output, EngineSpec(), loaded, Ledger(output.root))


def encoded(work: Work, mask: str, **spec: Any) -> Record:
    """The clip's record behind its mask, or the failure."""
    line = {"clip": "a.mp4", "source_prompt": "a blue circle", "target_prompts": ["a red square"], "mask": mask}
    Path(work.dataset.source).write_text(json.dumps(line) + "\n")
    (record,) = plan.planned_clips(work.dataset, work.model)
    if is_failure(record):
        return record
    return attempt(lambda r: encode_clip(replace(work, mask=MaskSpec(**spec)), r), record, "encode")


@pytest.mark.parametrize("kind", ["owlv2", "grounding-dino"])
def test_boxes_lie_inside_and_come_sorted(folders: dict[str, Path], kind: str) -> None:
    """Each kind of detector takes words, one thing or several; a box has room inside of the frame, the surest is first,
    and none is below the least score."""
    detector = Detector(folders[kind], CPU)
    found = detector.boxes(FRAMES[0], "the red circle, a blue square", 0.0)
    assert found and [score for score, _ in found] == sorted((score for score, _ in found), reverse=True)
    for _, (x0, y0, x1, y1) in found:
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 48
    assert not detector.boxes(FRAMES[0], "circle", 1.0)


def test_a_video_model_follows_and_an_image_model_does_not(folders: dict[str, Path]) -> None:
    """From a box in the fifth frame, SAM 2 of videos answers for all frames, that of pictures for this one; boxes and
    points reach both in pixels of the square that they look at."""
    box, point = (8.0, 8.0, 40.0, 40.0), (60.0, 4.0)
    one, follows, asked = Segmenter(folders["sam2"], CPU), Segmenter(folders["sam2_video"], CPU), list[int]()
    assert {*np.flatnonzero(one.masks(FRAMES, {4: [box]}).any((1, 2)))} <= {4}
    follows.model.register_forward_hook(lambda *call: asked.append(call[2].frame_idx))
    outlined = follows.masks(FRAMES, {4: [box, (0.0, 0.0, 9.0, 9.0)]})
    assert outlined.shape == (9, 48, 64) and outlined.dtype == bool and {*asked} == {*range(9)}
    for each in (one, follows):
        (boxed, corners), (pointed, inside) = (each._prompts([place], FRAMES.shape) for place in (box, point))
        assert boxed.flatten().tolist() == pytest.approx([8.0, 8 * 64 / 48, 40.0, 40 * 64 / 48])
        assert pointed.flatten().tolist() == pytest.approx([60.0, 4 * 64 / 48])
        assert corners.tolist() == [[2, 3]] and inside.tolist() == [[1]]


def test_boxes_of_words_become_a_mask(work: Work, folders: dict[str, Path]) -> None:
    """Without a segmenter the boxes are the mask, frame by frame; the second time nothing is asked; and another
    detector, another score and the turned mask have other keys."""
    spec: dict[str, Any] = {"detector": str(folders["owlv2"]), "least_score": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detector, "boxes", lambda self, frame, words, least: [(0.5, (4.2, 8.0, 20.0, 30.0))])
        record = encoded(work, "find the red circle", **spec)
        turned = encoded(work, "find the red circle", **spec, invert=True)
        keys = {encoded(work, "find the red circle", **spec | {"least_score": 0.1})["mask_key"]}
        other = spec | {"detector": str(folders["grounding-dino"])}
        keys |= {encoded(work, "find the red circle", **other)["mask_key"], record["mask_key"], turned["mask_key"]}
    found = masks._stored(work, record["mask_key"])
    assert found.sum() == 9 * 16 * 22 and found[:, 8:30, 4:20].all()
    assert np.array_equal(masks._stored(work, turned["mask_key"]), ~found) and len(keys) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found_masks, "_found", None)
        assert encoded(work, "find the red circle", **spec)["mask_key"] == record["mask_key"]


def test_what_is_pointed_at_is_outlined(work: Work, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """track gives its point or box to SAM 2, in the first frame for a video model and in each for an image model; find
    gives it the detector's boxes of one frame; what it returns is the mask."""
    asked: list[Any] = []

    def answer(self: Segmenter, frames: np.ndarray, shown: Any) -> np.ndarray:
        asked.append(shown)
        return np.full(frames.shape[:3], 20) > np.arange(frames.shape[2])

    monkeypatch.setattr(Segmenter, "masks", answer)
    record = encoded(work, "track 0.5 0.25", segmenter=str(folders["sam2_video"]))
    assert masks._stored(work, record["mask_key"]).sum() == 9 * 48 * 20 and asked[-1] == {0: [(24.0, 12.0)]}
    encoded(work, "track 0 0 0.5 0.25", segmenter=str(folders["sam2"]))
    assert asked[-1] == {frame: [(0.0, 0.0, 24.0, 12.0)] for frame in range(9)}
    both = {"detector": str(folders["owlv2"]), "segmenter": str(folders["sam2_video"])}
    encoded(work, "find circle", **both, least_score=0.0)
    assert len(asked[-1]) == 1 and all(len(box) == 4 for boxes in asked[-1].values() for box in boxes)


def test_nothing_is_put_in_the_models_place(work: Work, folders: dict[str, Path]) -> None:
    """What the small random weights outline is committed, or refused for being empty or all."""
    record = encoded(work, "track 0.5 0.5", segmenter=str(folders["sam2_video"]))
    assert not is_failure(record) or record["error"] == "NotAMask", record["message"]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no detector": ("find a dog", {}, "takes a detector .*, and none is named; set mask.detector"),
    "no segmenter": ("track 0.5 0.5", {"detector": "owlv2"}, "takes SAM 2, and none is named; set mask.segmenter"),
    "nothing": ("find a dog", {"detector": "owlv2", "least_score": 1.0}, "nothing like that is found in the window"),
    "outside": ("track 0.5 1.5", {"segmenter": "sam2"}, "tracks what is not inside the picture"),
    "three numbers": ("track 0.5 0.5 1", {"segmenter": "sam2"}, "tracks neither a point nor a box"),
    "long": ("find " + "dog " * 100, {"detector": "owlv2"}, "more than 300 characters"),
}


@pytest.mark.parametrize(("mask", "spec", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_found_is_refused(
    work: Work, folders: dict[str, Path], mask: str, spec: dict[str, Any], told: str
) -> None:
    """One sentence that names the clip and what to do."""
    named = {name: str(folders[value]) if value in folders else value for name, value in spec.items()}
    failed = encoded(work, mask, **named)
    assert failed["kind"] == "bad_input" and failed["message"].startswith("clip 'a.mp4': ")
    assert re.search(told, failed["message"]), failed["message"]


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def another(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "told"),
    [(pickled, "pickled weights, which are never loaded"), (another, "is a 'bert'; give a model"), (cut, "is cut off")],
)
def test_folders_are_refused_as_those_of_models(
    folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    """Pickles, other kinds and cut files, before anything is loaded; the field is named."""
    for field, kind in (("detector", "owlv2"), ("segmenter", "sam2_video")):
        folder = Path(shutil.copytree(folders[kind], tmp_path / field))
        damage(folder)
        with pytest.raises(ModelError, match=rf"field mask\.{field}.*{told}"):
            found_masks.check_finders(MaskSpec(**{field: str(folder)}))


def test_words_are_no_files() -> None:
    """find and track are words; names of files and folders that begin so are files."""
    assert words("find a red car.") == "a red car." and tracked("TRACK .5 1e-1") == (0.5, 0.1)
    assert not any(is_file(text) for text in ("find a dog", "track 0 0", "auto", "box 0 0 1 1"))
    assert all(is_file(text) and not by_model(text) for text in ("find me.png", "find me/", "tracks/0.png", "finder"))
    assert mask_text("a", " find a dog ") == "find a dog"


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_places_lie_where_boxes_do(fit: Any) -> None:
    """A point of the clip's picture is seen where a box around it is drawn, however the clip is fitted."""
    probe = video.Probe(192, 192, Fraction(1), Fraction(8), 9, 9 / 8, False, 0)
    place = pixels.Place(probe, video.Window(0, 0.0, 9), video.View(48, 96, 8, fit))
    drawn = pixels.fitted(pixels.box_pictures([(0.5, 0.375, 0.25, 0.25)], probe).picture(0), "box", probe, place.view)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    (x0, y0), (x1, y1) = pixels.seen_at(0.5, 0.375, place), pixels.seen_at(0.75, 0.625, place)
    assert (x0, x1, y0, y1) == pytest.approx((columns[0], columns[-1] + 1, rows[0], rows[-1] + 1), abs=1)

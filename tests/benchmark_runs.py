"""Stand-ins for a benchmark's run: its manifest planned as a run would, edits committed without a model.

And plain readers of the results, each written from the description of what the benchmark's evaluator reads.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image

from cogvideo_core.benchmarks.prepare import GIVEN, Chosen, Prepared, prepare
from cogvideo_core.dataset.outcomes import Spool
from cogvideo_core.inputs import sources
from cogvideo_core.media import video
from cogvideo_core.models.configuration import configured
from cogvideo_core.planning.tables import write_plan
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.storage.ledger import Ledger

Row = dict[str, Any]
FRAMES, SIDE, FPS = 9, 48, 8  # of the shapes model
STEP = 8


def prepared(name: str, folder: Path, root: Path, chosen: Chosen = Chosen()) -> Prepared:  # noqa: B008 - frozen
    """The benchmark prepared for the shapes model."""
    dataset = DatasetSpec(source=str(folder), **GIVEN)  # type: ignore[arg-type]
    return prepare(name, str(folder), OutputSpec(root=str(root)), chosen, dataset, configured(ModelSpec()))


def level(prompt: str, frame: int) -> int:
    """The red of a stand-in's frame."""
    return 40 + len(prompt) + STEP * frame


def make_run(found: Prepared, root: Path, recipe: str = "one", without: str = "") -> None:
    """Plans the manifest and commits an edit for each prompt, but `without`: frames whose red tells prompt and
    number, whose green is 100; the source's green is 200."""
    clips = list(sources.read_clips(DatasetSpec(source=str(found.manifest), allow_outside=True)))
    write_plan(str(root), map(dict, clips), RecipeSpec(), EngineSpec())
    ledger = Ledger(str(root))
    with Spool("edit") as spool:
        for clip in clips:
            edits = [_edit(ledger, dict(clip), number, recipe) for number in range(len(clip["target_prompts"]))]
            kept = [edit for edit in edits if edit["target_prompt"] != without]
            spool.add([{"clip": clip["clip"], "source_id": clip["source_id"], "edits": kept, "timings": []}])
        spool.publish(str(root), 0, {})


def _edit(ledger: Ledger, clip: Row, number: int, recipe: str) -> Row:
    prompt = clip["target_prompts"][number]
    unit, source = (_key(clip["clip"], clip["source_prompt"], what) for what in (prompt + recipe, "source"))
    for stage, key, name, green in (("edits", unit, "edit.mp4", 100), ("sources", source, "source.mp4", 200)):
        if ledger.find(stage, key) is None:  # type: ignore[arg-type]
            path = Path(ledger.objects.root) / name
            path.write_bytes(_movie(level(prompt, 0), green))
            ledger.commit(stage, key, {name: path}, {}, {})  # type: ignore[arg-type]
    row = {name: clip[name] for name in ("clip", "source_prompt", "source_id")} | {"own": clip["own"][number]}
    row |= {"target_prompt": prompt, "edit_key": unit, "source_key": source, "state": "done", "reused": False}
    row |= {"frames": FRAMES, "height": SIDE, "width": SIDE, "fps": FPS, "model": "toy", "model_fingerprint": "m"}
    return row | {"recipe": recipe, "recipe_fingerprint": recipe}


@cache
def _movie(first: int, green: int) -> bytes:
    """An mp4 whose red begins at `first` and grows from frame to frame."""
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    frames[..., 0] = (first + STEP * np.arange(FRAMES))[:, None, None]
    frames[..., 1] = green
    with tempfile.TemporaryDirectory() as folder:
        video.encode(frames, Path(folder) / "made.mp4", FPS)
        return (Path(folder) / "made.mp4").read_bytes()


def _key(*parts: str) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def pictures(folder: Path, ending: str) -> np.ndarray:
    """Frames of a folder in the order of their sorted names, as evaluators read them: uint8 [F,H,W,3]."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob(f"*.{ending}"))])


def movie(path: Path) -> np.ndarray:
    """Every frame of a video: uint8 [F,H,W,3]."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while (read := reader.read())[0]:
        frames.append(read[1][..., ::-1])
    reader.release()
    return np.stack(frames)


def read_tgve(results: Path, folder: Path) -> dict[str, np.ndarray]:
    """<group>/<clip>/<type>/*.jpg, scaled to 480x480 by the evaluator itself."""
    names = ("DAVIS_480p/ball", "videvo_480p/dot")
    kinds = ("style", "object", "background", "multiple")
    return {f"{name}/{kind}": pictures(results / name / kind, "jpg") for name in names for kind in kinds}


def read_v2vbench(results: Path, folder: Path) -> dict[str, np.ndarray]:
    """The list's clips, edits counted from 0; the sources have as many frames of the same size."""
    found = {}
    for sample in yaml.safe_load((results / "config.yaml").read_text())["data"]:
        source = pictures(results / "source_videos" / sample["video_id"], "png")
        for number, _ in enumerate(sample["edit"]):
            edit = pictures(results / "edited_videos" / sample["video_id"] / str(number), "png")
            assert edit.shape == source.shape
            assert (source[..., 1] > 180).all()
            found[f"{sample['video_id']}/{number}"] = edit
    return found


def read_five(results: Path, folder: Path) -> dict[str, np.ndarray]:
    """<video_name>/<save_dir> of each item, frames paired with the first ones of images/ by their order."""
    found = {}
    for file in sorted((folder / "edit_prompt").glob("*.json")):
        for number, item in enumerate(json.loads(file.read_text())):
            edit = pictures(results / item["video_name"] / item["save_dir"], "png")
            assert len(edit) <= len(pictures(folder / "images" / item["video_name"], "jpg"))
            found[f"{file.name[:5]}/{number}"] = edit
    return found


def read_editverse(results: Path, folder: Path) -> dict[str, np.ndarray]:
    """<id>/generate.mp4 and <id>/video1.mp4 of each entry of the list."""
    found = {}
    for name in json.loads((results / "test.json").read_text()):
        found[name] = movie(results / name / "generate.mp4")
        assert movie(results / name / "video1.mp4").shape == found[name].shape
    return found


def read_ivebench(results: Path, folder: Path) -> dict[str, np.ndarray]:
    """target_videos/<name without ending> of each item, beside source_videos/<the same>."""
    found = {}
    for item in json.loads((results / "info.json").read_text()):
        stem = item["src_video_name"].removesuffix(".mp4")
        found[str(item["id"])] = pictures(results / "target_videos" / stem, "png")
        assert pictures(results / "source_videos" / stem, "png").shape == found[str(item["id"])].shape
    return found


def read_davis(results: Path, folder: Path) -> dict[str, np.ndarray]:
    """JPEGImages/480p/<clip>/<id>."""
    names = ("ball/square", "dot/0")
    return {name: pictures(results / "JPEGImages" / "480p" / name, "png") for name in names}


READERS: dict[str, Callable[[Path, Path], dict[str, np.ndarray]]] = {
    "tgve": read_tgve,
    "v2vbench": read_v2vbench,
    "five": read_five,
    "editverse": read_editverse,
    "ivebench": read_ivebench,
    "davis": read_davis,
}
SHAPES = {  # height, width of the edits that a reader finds: the clip's, or its shape with the model's pixels
    "tgve": (48, 48),
    "v2vbench": (48, 48),
    "five": (48, 48),
    "editverse": (34, 68),
    "ivebench": (68, 34),
    "davis": (48, 48),
}
FIRST = {"tgve": "00000.jpg", "v2vbench": "00.png", "five": "00001.png", "ivebench": "00000.png", "davis": "00000.png"}

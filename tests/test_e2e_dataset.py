"""One manifest with everything that a dataset's owner may bring, from its rows to an exported dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogvideo_core.dataset.tables import read_table
from cogvideo_core.exports import export
from cogvideo_core.exports.spec import ExportSpec
from cogvideo_core.media import video
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import world
from flows.edit_dataset import edit_dataset

pytestmark = pytest.mark.e2e
Record = dict[str, Any]
FPS = 8  # of the tiny model, whose windows have 9 frames


def clip(seed: int) -> np.ndarray:
    return world.render(world.scene_from_seed(seed))


def row(name: str, number: int, **given: Any) -> Record:
    """A row with three columns of the user's own."""
    own = {"id": number, "licence": "CC0", "tags": ["toy", str(number)]}
    return {"clip": name, "source_prompt": "a shape", "target_prompt": "a blue circle", **own, **given}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A folder of frames, a clip with a cut in its first window, a clip and its copy, a part of a clip, edits with a
    recipe and a seed of their own, and a clip that is not there."""
    folder = tmp_path / "in"
    (folder / "frames").mkdir(parents=True)
    for number, frame in enumerate(clip(1)):
        Image.fromarray(frame).save(folder / f"frames/{number:05d}.png")
    video.encode(np.concatenate([clip(2)[:5], clip(3)]), folder / "cut.mp4", FPS, crf=1)
    video.encode(clip(4), folder / "one.mp4", FPS)
    shutil.copy(folder / "one.mp4", folder / "copy.mp4")
    video.encode(np.concatenate([clip(5), clip(5)[::-1], clip(5)]), folder / "long.mp4", FPS)
    rows = [
        row("frames", 1, fps=FPS),
        row("cut.mp4", 2),
        row("one.mp4", 3, recipe="bold", seed=3),
        row("one.mp4", 4, target_prompt="a red square"),
        row("copy.mp4", 5),
        row("long.mp4", 6, start=1.0, end=2.5),
        row("nothere.mp4", 7),
    ]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_all_kinds_of_rows_in_one_run(
    prefect_harness: None, manifest: Path, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    """Each row comes out as its columns say; the copy and the missing clip are rows of the error table, and the rest is
    edited, kept with its owner's columns, and exported."""
    root = tmp_path / "run"
    counts = edit_dataset(
        dataset=DatasetSpec(source=str(manifest)),
        model=ModelSpec(path=str(tiny_pipeline_folder)),
        inversion=InversionSpec(method="fixed_point", steps=4, gate="off"),
        recipe=RecipeSpec(),
        output=OutputSpec(root=str(root)),
        engine=EngineSpec(min_success_ratio=0.5),
        screen=ScreenSpec(duplicates="exact", action="drop"),
    )
    edits = {each["id"]: each for each in read_table(str(root), "edits")}
    assert sorted(edits) == [1, 2, 3, 4, 6] and counts["edits"] == 5
    assert all((each["licence"], each["tags"]) == ("CC0", ["toy", str(number)]) for number, each in edits.items())
    assert edits[1]["clip"] == "frames" and edits[1]["frames"] == 9
    assert edits[2]["screen_start_s"] > 0.5 and edits[2]["screen_cuts"] == 1
    assert [(edits[n]["recipe"], edits[n]["seed"]) for n in (3, 4)] == [("bold", 3), ("balanced", 0)]
    assert edits[3]["latents_key"] == edits[4]["latents_key"]
    assert (edits[6]["start_s"], edits[6]["end_s"]) == (1.0, 2.5)
    errors = {each["clip"]: each for each in read_table(str(root), "errors")}
    assert sorted(errors) == ["copy.mp4", "nothere.mp4"]
    assert errors["copy.mp4"]["stage"] == "screen" and "one.mp4" in errors["copy.mp4"]["message"]
    assert errors["nothere.mp4"]["stage"] == "discover"

    export.export(str(root), str(tmp_path / "out"), ExportSpec(to="triplets"))
    lines = [json.loads(line) for path in (tmp_path / "out").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(line["instruction"] for line in lines) == ["a blue circle"] * 4 + ["a red square"]

"""Recipe files: what they may hold, and how a manifest's rows name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cogvideo_core.errors import BadSpec
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.recipe_files import read_recipe
from cogvideo_core.settings.specs import DatasetSpec, OutputSpec, RecipeSpec
from cogvideo_core.stages.units import planned_edits
from cogvideo_core.stages.wishes import Prompt, prompts_of, recipe_of, recipes_of

TUNED = "recipe: {name: tuned, guidance_scale: 9.0, start_at: 0.1}\ninversion: {steps: 12}\n"


def clips(folder: Path, *rows: dict[str, Any]) -> list[Any]:
    for row in rows:
        (folder / row["clip"]).write_bytes(b"x")
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_clips(DatasetSpec(source=str(folder / "manifest.jsonl"))))


def row(name: str, recipe: str) -> dict[str, Any]:
    return {"clip": name, "source_prompt": "a", "target_prompts": ["b", "c"], "recipe": recipe}


def planned(recipe: RecipeSpec, record: Any) -> list[Any]:
    return planned_edits("0" * 64, recipe, OutputSpec(), "a", prompts_of(record))


def test_a_row_names_a_recipe_file(tmp_path: Path) -> None:
    """Its edits are made by the file's recipe, and have the keys that a run of that recipe gives them."""
    (tmp_path / "tuned.yaml").write_text(TUNED)
    first, second = clips(tmp_path, row("a.mp4", "tuned.yaml"), row("b.mp4", "bold"))
    run, own = PRESETS["fast"], RecipeSpec(name="tuned", guidance_scale=9.0, start_at=0.1)
    edits = planned(run, first)
    assert [(edit["recipe"], edit["target_prompt"]) for edit in edits] == [("tuned", "b"), ("tuned", "c")]
    assert recipe_of(run, edits[0]) == own and recipes_of(run, first["overrides"]) == [own]
    plain = planned_edits("0" * 64, own, OutputSpec(), "a", [Prompt("b"), Prompt("c")])
    assert [edit["edit_key"] for edit in edits] == [edit["edit_key"] for edit in plain]
    assert [edit["recipe"] for edit in planned(run, second)] == ["bold", "bold"]


def test_two_files_of_one_name_are_two_recipes(tmp_path: Path) -> None:
    """Edits of one clip by both have keys of their own."""
    (tmp_path / "one.yaml").write_text(TUNED)
    (tmp_path / "two.json").write_text(json.dumps({"recipe": {"name": "tuned", "guidance_scale": 3.0}}))
    (record,) = clips(tmp_path, row("a.mp4", "one.yaml"), row("a.mp4", "two.json"))
    edits = planned(PRESETS["balanced"], record)
    assert len({edit["edit_key"] for edit in edits}) == 4
    assert {recipe_of(PRESETS["balanced"], edit).guidance_scale for edit in edits} == {9.0, 3.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe: {guidance_scale: 99}", "guidance_scale: Input should be less than or equal to 30"),
        ("recipe: {gidance: 3}", "gidance: Extra inputs are not permitted"),
        ("recipe: {name: bold, guidance_scale: 3}", "its name 'bold' is that of a preset"),
        ("inversion: {steps: 3}", "holds no recipe"),
        ("recipe: {name: x}\ninversion: {steps: 0}", "steps: Input should be greater than or equal to 1"),
        ("recipe: [1, 2]", "holds no recipe"),
        ("{{{", "can't be read"),
        ("recipe: &a {name: x}\nmore: *a", "it has aliases"),
        ("recipe: !!python/object/apply:os.system ['true']", "can't be read"),
        ("x" * 100_001, "more than 100,000 bytes"),
    ],
)
def test_bad_recipe_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """In one sentence that names the file; a row that names it is a failure that names its clip."""
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(BadSpec, match="field recipe: ") as error:
        read_recipe(tmp_path / "bad.yaml")
    assert words in str(error.value) and "bad.yaml" in str(error.value) and "\n" not in str(error.value)
    (failed,) = clips(tmp_path, row("a.mp4", "bad.yaml"))
    assert words in failed["message"] and "clip 'a.mp4': its recipe file" in failed["message"]


def test_a_file_outside_of_the_folder_is_forbidden(tmp_path: Path) -> None:
    """A stranger's manifest reads no other file, and a missing one is told."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.yaml").write_text(TUNED)
    outside, missing = clips(tmp_path / "in", row("a.mp4", "../secret.yaml"), row("b.mp4", "none.yaml"))
    assert outside["error"] == "ForbiddenUri" and "outside the source folder" in outside["message"]
    assert "can't be read" in missing["message"]

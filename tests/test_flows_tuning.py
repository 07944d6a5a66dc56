"""The command `tune`, what it refuses before a server starts, and `--recipe FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.specs import InversionSpec, RecipeSpec
from cogvideo_core.shapes.make import make_clips
from flows.cli.main import app
from flows.settings import settings_of, tuning_of
from flows.tuning import tune_recipe

RUNNER = CliRunner(env={"COLUMNS": "300"})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("clips"), 3, prompts=1)


def call(*arguments: Any) -> Any:
    return RUNNER.invoke(app, ["tune", *map(str, arguments)])


def told(result: Any) -> str:
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--budget", "soon"], "tune.budget: Value error, budget 'soon' is no time; write it as 2h, 90m or 1h30m"),
        (["--budget", "2s"], "is shorter than 10 seconds"),
        (["--against", "boldest"], "tune.against: Input should be 'balanced', 'faithful', 'bold' or 'fast'"),
        (["--set", "tune.clips=1"], "tune.clips: Input should be greater than or equal to 3"),
        (["--set", "recipe.start_at=0"], "groups are dataset, model"),
        (["--set", "judge.text=none"], "field judge.text: a search on 'shapes' is told what is better by a text judge"),
    ],
)
def test_what_can_not_be_searched_is_refused(manifest: Path, more: list[str], words: str) -> None:
    """With exit code 2 and one sentence, before a server is started."""
    result = call(manifest, *more)
    assert result.exit_code == 2 and words in told(result), told(result)


def test_another_model_needs_a_judge(manifest: Path, tiny_pipeline_folder: Path) -> None:
    """The sentence says which."""
    result = call(manifest, "--model", tiny_pipeline_folder)
    assert result.exit_code == 2
    assert "give the folder of a CLIP, SigLIP or X-CLIP model, as --set judge.text=FOLDER" in told(result)


def test_options_are_short_for_settings() -> None:
    """And a settings file may hold the group."""
    groups = tuning_of({"tune": {"budget": "90m", "trials": 4}}, ["tune.steps=[8]"])
    assert (groups["tune"].budget_s, groups["tune"].trials, groups["tune"].steps) == (5400, 4, [8])
    assert "recipe" not in groups and groups["inversion"] == InversionSpec()


def test_a_recipe_file_stands_where_a_preset_does(tmp_path: Path) -> None:
    """Its inversion too; later layers win as over a preset; a bad file is refused under --recipe."""
    file = tmp_path / "recipe.yaml"
    file.write_text("recipe: {name: tuned, guidance_scale: 9, cache: 'off'}\ninversion: {steps: 16}\n")
    groups = settings_of(str(file), {}, ["inversion.first_iterations=7"])
    assert groups["recipe"] == RecipeSpec(name="tuned", guidance_scale=9, cache="off")
    assert groups["inversion"] == InversionSpec(steps=16, first_iterations=7)
    assert settings_of("fast", {}, [])["recipe"] == PRESETS["fast"]
    settings = tmp_path / "more.yaml"
    settings.write_text("recipe: {guidance_scale: 2}\ninversion: {steps: 5}\n")
    both = settings_of(str(file), {}, [], str(settings))
    assert both["recipe"].guidance_scale == 9 and both["inversion"].steps == 5
    result = RUNNER.invoke(app, ["run", "x.jsonl", "--recipe", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2 and "can't be read" in told(result) and "--recipe" in told(result)


def test_the_form_has_the_group(manifest: Path) -> None:
    """Every field of the search has a title and says what it does."""
    schema = tune_recipe.parameters.model_dump()
    fields = schema["definitions"]["TuneSpec"]["properties"]
    assert {"budget", "clips", "held_out", "against", "layer_groups"} <= fields.keys()
    assert all(field.get("title") and field.get("description") for field in fields.values())

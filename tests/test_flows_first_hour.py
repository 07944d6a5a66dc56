"""The first hour with the command line: what is wrong is said at once, in one sentence, and settings can be found."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from prefect import flow, task
from typer.testing import CliRunner

from cogvideo_core.errors import BadSpec
from cogvideo_core.models.configuration import configured
from cogvideo_core.planning import plan
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.settings.specs import DatasetSpec, ModelSpec
from cogvideo_core.shapes.make import make_clips
from flows import settings as flow_settings
from flows.cli.main import app
from flows.edit_form import OUTPUT, SOURCE, edit, short_settings
from flows.settings import GROUPS, chosen, described, settings_of
from tasks import log_lines

RUNNER = CliRunner(env={"COLUMNS": "200"})
NOT_FOUND = """
import sys
from flows.cli import main as cli
print(cli.app(["run", "nothere/", "--prompts", "none.txt"], standalone_mode=False))
print(sorted({"prefect", "torch", "diffusers"} & set(sys.modules)))
"""


def test_what_is_not_there_is_said_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    """One sentence on standard error and exit code 2; neither Prefect, torch nor diffusers was imported for it."""
    done = subprocess.run([sys.executable, "-c", NOT_FOUND], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2", "[]"]
    (line,) = done.stderr.splitlines()
    assert "none.txt" in line and "does not exist" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "recipe.reference_wieght=1"], ["recipe.reference_wieght: no such field", "mean reference_weight?"]),
        (["--set", "recipie.seeds=[0]"], ["groups are", "mean recipe?"]),
        (["--set", "recipe.reference_weight=99"], ["less than or equal to 10", "not 99"]),
        (["--set", "recipe.start=freesh"], ["'inverted', 'noised', 'fresh' or 'mixed'", "not 'freesh'"]),
        (["--recipe", "balnced"], ["is no preset", "mean balanced?"]),
    ],
)
def test_a_wrong_setting_is_told_with_what_is_right(arguments: list[str], words: list[str]) -> None:
    """The nearest name, or what is allowed."""
    result = RUNNER.invoke(app, ["run", "x.jsonl", *arguments])
    told = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2 and all(word in told for word in words), told


def test_every_field_is_listed() -> None:
    """`settings` names each field of each group with its default; a group alone names its own."""
    everything = RUNNER.invoke(app, ["settings"]).stdout
    for group, kind in GROUPS.items():
        assert {row[0] for row in described(group)} == set(kind.model_fields)
        assert all(row[3] for row in described(group)), "each field says what it does"
        assert all(f"{group}.{field}" in everything for field in kind.model_fields)
    alone = RUNNER.invoke(app, ["settings", "model"]).stdout
    assert "model.vae_tiling" in alone and "auto, on, off" in alone and "recipe.seeds" not in alone
    wrong = RUNNER.invoke(app, ["settings", "modell"])
    assert wrong.exit_code == 2 and "did you mean model?" in " ".join(wrong.stderr.replace("│", " ").split())


FILES = {
    "settings.yaml": "dataset: {source: a.jsonl, limit: 2}\nrecipe: {reference_weight: 0.5}\noutput: {root: out/a}\n",
    "settings.toml": 'dataset = {source = "a.jsonl", limit = 2}\nrecipe.reference_weight = 0.5\noutput.root="out/a"',
    "settings.json": json.dumps(
        {
            "dataset": {"source": "a.jsonl", "limit": 2},
            "recipe": {"reference_weight": 0.5},
            "output": {"root": "out/a"},
            "last_stage": "edit",
        }
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_settings_file_is_a_layer(tmp_path: Path, name: str) -> None:
    """It stands above the preset and below the command's own options, which stand below --set."""
    file = tmp_path / name
    file.write_text(FILES[name])
    found = settings_of("", chosen("", "", "", "", 0, str(file)), [], str(file))
    assert (found["dataset"].source, found["dataset"].limit) == ("a.jsonl", 2)
    assert (found["recipe"].reference_weight, found["output"].root, found["model"].path) == (0.5, "out/a", "shapes")
    own = settings_of("", chosen("b.jsonl", "", "", "out/b", 0, str(file)), ["dataset.limit=7"], str(file))
    assert (own["dataset"].source, own["output"].root, own["dataset"].limit) == ("b.jsonl", "out/b", 7)
    assert settings_of("bold", {}, [], str(file))["recipe"].name == "bold"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("datasett: {source: a}", "did you mean dataset?"),
        ("- a\n- b", "holds no groups of settings"),
        ("a: [", "can't be read"),
        ("dataset: 3", "'dataset' is no group of settings"),
    ],
)
def test_a_settings_file_that_is_none_is_said(tmp_path: Path, text: str, words: str) -> None:
    """One sentence with the file's name."""
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(typer.BadParameter, match="wrong") as failed:
        flow_settings.settings_file(str(file))
    assert words in str(failed.value)


def test_the_settings_of_an_earlier_run_are_a_settings_file(tmp_path: Path) -> None:
    """What a run writes to plan/settings.json is accepted as it is."""
    from cogvideo_core.dataset.tables import kept_settings

    groups = {name: kind().as_json() for name, kind in GROUPS.items()}
    kept_settings(str(tmp_path), groups | {"last_stage": "edit"})
    found = settings_of("", {}, [], str(tmp_path / "plan/settings.json"))
    assert {name: group.as_json() for name, group in found.items()} == groups


def test_without_source_and_settings_nothing_runs() -> None:
    """The sentence names both ways."""
    result = RUNNER.invoke(app, ["run"])
    assert result.exit_code == 2 and "--settings" in result.stderr


def test_the_version_is_told() -> None:
    """`--version` is that of the installed package."""
    result = RUNNER.invoke(app, ["--version"])
    assert result.exit_code == 0 and result.stdout.startswith("cogvideo-edit 0.")


def test_completion_knows_the_commands() -> None:
    """The script that a shell asks for can be printed."""
    asked = {"_COGVIDEO_EDIT_COMPLETE": "complete_bash", "COMP_WORDS": "cogvideo-edit se", "COMP_CWORD": "1"}
    result = RUNNER.invoke(app, [], env=asked, prog_name="cogvideo-edit")
    assert "settings" in result.stdout


def test_the_first_clips_alone_are_planned(tmp_path: Path) -> None:
    """dataset.limit takes the manifest's first rows; 0 takes all."""
    manifest, model = str(make_clips(tmp_path, 3, prompts=1)), configured(ModelSpec())
    every = [record["clip"] for record in plan.planned_clips(DatasetSpec(source=manifest), model)]
    two = [record["clip"] for record in plan.planned_clips(DatasetSpec(source=manifest, limit=2), model)]
    assert len(every) == 3 and two == every[:2]


@pytest.mark.parametrize("debug", ["", "1"])
def test_expected_errors_have_no_traceback_in_logs(
    prefect_harness: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, debug: str
) -> None:
    """Of an EditError in a task or a flow the logs hold the sentence alone, unless --debug asks for more; any other
    exception keeps its traceback."""
    monkeypatch.setenv(log_lines.DEBUG, debug)
    log_lines.install()

    def fails(error: Exception) -> Any:
        @task
        def breaks() -> None:
            raise error

        return flow(name="fails")(lambda: breaks())

    for error in (BadSpec("field x: no"), ValueError("a bug")):
        caplog.clear()
        with pytest.raises(type(error)):
            fails(error)()
        shown = [logging.Formatter().format(record) for record in caplog.records if record.levelno >= logging.ERROR]
        assert any(str(error) in line for line in shown)
        expected = isinstance(error, BadSpec) and not debug
        assert any("Traceback" in line for line in shown) != expected


def test_the_short_form_is_the_full_one(tmp_path: Path) -> None:
    """Its fields give the groups that the full form would have; a settings file decides what is left alone."""
    plain = short_settings("a.jsonl", "p.txt", "out/a", "some/model", "fast", "bfloat16", 3, "")
    assert plain.dataset == DatasetSpec(source="a.jsonl", prompts="p.txt", limit=3)
    assert (plain.model.path, plain.model.dtype, plain.output.root) == ("some/model", "bfloat16", "out/a")
    assert plain.recipe == PRESETS["fast"] and plain.inversion == PRESET_INVERSIONS["fast"]
    file = tmp_path / "more.yaml"
    file.write_text("dataset: {source: b.jsonl}\nrecipe: {reference_weight: 0.5}\noutput: {crf: 20, root: out/b}\n")
    filed = short_settings(SOURCE, "", OUTPUT, "shapes", "balanced", "auto", 0, str(file))
    assert (filed.dataset.source, filed.output.root, filed.output.crf) == ("b.jsonl", "out/b", 20)
    assert filed.recipe.reference_weight == 0.5
    with pytest.raises(BadSpec, match=r"settings_file: .*nowhere"):
        short_settings(SOURCE, "", OUTPUT, "shapes", "balanced", "auto", 0, "nowhere.yaml")
    with pytest.raises(BadSpec, match=r"recipe_file: .*none.yaml"):
        short_settings(SOURCE, "", OUTPUT, "shapes", "none.yaml", "auto", 0, "")


def test_the_short_form_has_nine_fields_in_their_order() -> None:
    """As the deployment shows them."""
    names = [
        "source",
        "prompts",
        "output",
        "model",
        "preset",
        "recipe_file",
        "precision",
        "first_clips",
        "settings_file",
    ]
    properties = edit.parameters.properties
    assert sorted(properties, key=lambda name: properties[name]["position"]) == names
    assert all(properties[name].get("description") for name in names)

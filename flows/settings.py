"""The groups of settings from what a command is given: preset, settings file, the command's own options, --set."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import ValidationError

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.caption_specs import CaptionSpec, InstructionSpec
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.metric_specs import MetricSpec
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.settings.recipe_files import is_recipe_file, read_recipe
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec, Spec
from cogvideo_core.settings.tune_specs import TuneSpec

GROUPS: dict[str, type[Spec]] = {
    "dataset": DatasetSpec,
    "model": ModelSpec,
    "inversion": InversionSpec,
    "recipe": RecipeSpec,
    "output": OutputSpec,
    "engine": EngineSpec,
    "judge": JudgeSpec,
    "mask": MaskSpec,
    "screen": ScreenSpec,
}
DESCRIBING: dict[str, type[Spec]] = {  # the groups of write-manifest
    **{name: GROUPS[name] for name in ("dataset", "model", "screen")},
    "captions": CaptionSpec,
    "instructions": InstructionSpec,
}
SCORING: dict[str, type[Spec]] = {"metrics": MetricSpec}  # the group of benchmark run and benchmark score
TUNING: dict[str, type[Spec]] = {  # the groups of tune: a recipe is what it finds
    **{name: group for name, group in GROUPS.items() if name != "recipe"},
    "tune": TuneSpec,
}
EVERY = GROUPS | DESCRIBING | SCORING | TUNING
NOT_SETTINGS = ("plan", "last_stage", "title")  # other entries of plan/settings.json
Groups = dict[str, dict[str, Any]]
OUTPUT, MODEL = "out/run", "shapes"  # the command line's own defaults


def nearest(word: str, known: Mapping[str, Any]) -> str:
    """`; did you mean x?`, or "" where nothing is near."""
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""


def parse_sets(pairs: list[str], known: Mapping[str, type[Spec]] = GROUPS) -> Groups:
    """["recipe.seeds=[0,1]"] -> {"recipe": {"seeds": [0, 1]}}; values are JSON where they parse as such, else text.
    `known` are the groups of the command."""
    found: Groups = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        group, dot, field = path.partition(".")
        if not equals or not dot or group not in known:
            near = nearest(group, known) if dot and equals else ""
            problem = f"{pair!r} is not group.field=value; groups are {', '.join(known)}{near}"
            raise typer.BadParameter(problem, param_hint="--set")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        found.setdefault(group, {})[field] = value
    return found


def settings_file(path: str) -> Groups:
    """The groups in a YAML, TOML or JSON file, such as the plan/settings.json of an earlier run. "" is no file. A file
    may serve several commands: each takes its own groups."""
    if not path:
        return {}
    try:
        text = Path(path).read_text("utf-8")
        found = tomllib.loads(text) if path.lower().endswith(".toml") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:200]
        problem = f"{path!r} can't be read ({why}); give a YAML, TOML or JSON file"
        raise typer.BadParameter(problem, param_hint="--settings") from error
    if not isinstance(found, dict) or not all(isinstance(fields, dict | str | int) for fields in found.values()):
        problem = f"{path!r} holds no groups of settings; write group: {{field: value}} with {', '.join(GROUPS)}"
        raise typer.BadParameter(problem, param_hint="--settings")
    groups = {name: fields for name, fields in found.items() if name not in NOT_SETTINGS}
    for name, fields in groups.items():
        if name not in EVERY or not isinstance(fields, dict):
            problem = f"{path!r}: {name!r} is no group of settings; groups are {', '.join(EVERY)}{nearest(name, EVERY)}"
            raise typer.BadParameter(problem, param_hint="--settings")
    return groups


def chosen(source: str, prompts: str, model: str, output: str, limit: int = 0, file: str = "") -> Groups:
    """The groups' fields that these options are short for. What is left out comes from the settings file, where there
    is one, else from the defaults."""
    if not source and not file:
        raise typer.BadParameter("give a folder of videos or a manifest, or --settings with dataset.source")
    if not file:
        model, output = model or MODEL, output or OUTPUT
    dataset: dict[str, Any] = {"source": source, "prompts": prompts, "limit": limit}
    return given_of({"dataset": dataset, "model": {"path": model}, "output": {"root": output}})


def given_of(groups: Groups) -> Groups:
    """The fields that an option gives a value."""
    return {group: {name: value for name, value in fields.items() if value} for group, fields in groups.items()}


def settings_of(recipe: str, given: Groups, sets: list[str], file: str = "") -> dict[str, Any]:
    """The groups: preset, then the settings file, then the command's own options, then --set, the last of which
    wins. `recipe` is a preset or a recipe file; "" is the default preset, unless the settings file has a recipe."""
    told = settings_file(file)
    groups: Groups = {}
    if recipe or "recipe" not in told:
        groups = recipe_groups(recipe or "balanced")
        told = {name: fields for name, fields in told.items() if name != "recipe" or not recipe}
    if not recipe:
        groups.pop("inversion", None)
    return _merged(GROUPS, groups, told, given, parse_sets(sets))


def recipe_groups(recipe: str) -> Groups:
    """Recipe and inversion of a preset, or of a recipe file such as `tune` writes."""
    if recipe in PRESETS:
        return {"recipe": PRESETS[recipe].as_json(), "inversion": PRESET_INVERSIONS[recipe].as_json()}
    if not is_recipe_file(recipe):
        problem = f"{recipe!r} is no preset; there are {', '.join(PRESETS)}{nearest(recipe, PRESETS)}, or give a file"
        raise typer.BadParameter(problem, param_hint="--recipe")
    try:
        found = read_recipe(Path(recipe))
    except BadSpec as error:
        raise typer.BadParameter(str(error), param_hint="--recipe") from error
    return {"recipe": found.recipe.as_json(), "inversion": found.inversion}


def describing_of(given: Groups, sets: list[str], file: str = "") -> dict[str, Any]:
    """The groups of write-manifest: the settings file, then the command's options, then --set; the last one wins."""
    return _merged(DESCRIBING, settings_file(file), given, parse_sets(sets, DESCRIBING))


def tuning_of(given: Groups, sets: list[str], file: str = "") -> dict[str, Any]:
    """The groups of tune: the settings file, then the command's options, then --set; the last one wins."""
    return _merged(TUNING, settings_file(file), given, parse_sets(sets, TUNING))


def _merged(known: Mapping[str, type[Spec]], *layers: Groups) -> dict[str, Any]:
    """The known groups, of layers of which the last one wins."""
    groups: Groups = {}
    for layer in layers:
        for group, fields in layer.items():
            groups[group] = groups.get(group, {}) | fields
    return {name: group_of(name, groups.get(name, {})) for name in known}


def group_of(name: str, fields: dict[str, Any]) -> Spec:
    """One group of settings; its errors are worded `group.field: problem`."""
    try:
        return EVERY[name](**fields)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, (name, *e['loc'])))}: {_problem(name, e)}" for e in error.errors()]
        raise typer.BadParameter("; ".join(lines)) from error


def _problem(name: str, error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"no such field{nearest(str(error['loc'][0]), EVERY[name].model_fields)}"
    given = f", not {error['input']!r}" if error["type"] != "value_error" and len(repr(error["input"])) < 60 else ""
    return f"{error['msg']}{given}"


def described(name: str) -> list[tuple[str, str, str, str]]:
    """(field, default, what is allowed, description) of each field of a group."""
    schema = EVERY[name].model_json_schema()
    rows = []
    for field, about in schema["properties"].items():
        rows.append((field, json.dumps(about.get("default")), _allowed(about), about.get("description", "")))
    return rows


BOUNDS = {
    "minimum": ">= {}",
    "maximum": "<= {}",
    "exclusiveMinimum": "> {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "pattern": "as {}",
}


def _allowed(about: dict[str, Any]) -> str:
    """What a field's JSON schema lets pass, in a few words."""
    if "enum" in about:
        return ", ".join(map(str, about["enum"]))
    kind = {"string": "text", "boolean": "true, false", "array": "list"}.get(
        about.get("type", ""), about.get("type", "")
    )
    return " ".join([kind, *(text.format(about[word]) for word, text in BOUNDS.items() if word in about)])

"""The short form of the main flow: nine fields, in the order in which a person fills them in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from prefect import flow
from pydantic import Field

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.recipes import Preset
from cogvideo_core.settings.specs import DatasetSpec, OutputSpec
from flows.edit_dataset import run
from flows.report import run_name
from flows.settings import chosen, settings_of
from tasks.settings import Settings

Record = dict[str, Any]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
SOURCE, OUTPUT = DatasetSpec().source, OutputSpec().root


@flow(name="edit", flow_run_name=run_name, validate_parameters=True)
def edit(
    source: Annotated[str, Field(min_length=1)] = SOURCE,
    prompts: str = "",
    output: Annotated[str, Field(min_length=1)] = OUTPUT,
    model: Annotated[str, Field(min_length=1)] = "shapes",
    preset: Preset = "balanced",
    recipe_file: str = "",
    precision: Precision = "auto",
    first_clips: Annotated[int, Field(ge=0)] = 0,
    settings_file: str = "",
) -> Record:
    """Edits clips for every prompt; what is committed already is reused.

    Args:
        source: Folder of videos, a manifest (CSV, JSON, JSONL, Parquet), tars, or hf://datasets/...
        prompts: For a folder: a text file with one prompt a line. Empty: the manifest's own.
        output: Folder or fsspec URL of the run.
        model: A diffusers folder, a hub id (THUDM/CogVideoX-5b), or shapes, the small one that comes along.
        preset: faithful keeps most of the clip, bold changes most, fast is for large datasets.
        recipe_file: A recipe.yaml that tune has written, on the worker; it stands in the preset's place.
        precision: auto takes the model's own on a GPU.
        first_clips: How many clips to try first. 0: all.
        settings_file: YAML, TOML or JSON on the worker with more settings, such as an earlier run's plan/settings.json.
    """
    recipe = recipe_file or preset
    return run(short_settings(source, prompts, output, model, recipe, precision, first_clips, settings_file), "edit")


def short_settings(
    source: str, prompts: str, output: str, model: str, recipe: str, precision: Precision, first: int, file: str
) -> Settings:
    """The groups of a short form, whose recipe is a preset or a file; the settings file decides what is left at the
    default. Raises BadSpec."""
    changed = {"source": (source, SOURCE), "output": (output, OUTPUT), "model": (model, "shapes")}
    own = {name: "" if file and value == default else value for name, (value, default) in changed.items()}
    try:
        given = chosen(own["source"], prompts, own["model"], own["output"], first, file)
        if precision != "auto":
            given["model"] = given["model"] | {"dtype": precision}
        named = "" if file and recipe == "balanced" else recipe
        return Settings(**settings_of(named, given, [], file))
    except typer.BadParameter as error:
        field = "recipe_file" if error.param_hint == "--recipe" else "settings_file"
        raise BadSpec(f"field {field}: {error.message}") from error

"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cogvideo_core.settings.presets import PRESETS

OUTPUT, MODEL = "out/run", "shapes"
Set = Annotated[
    list[str], typer.Option("--set", help="Any setting, as group.field=value, e.g. --set recipe.reference_end=0.3")
]
SettingsFile = Annotated[
    str,
    typer.Option(
        "--settings", help="YAML, TOML or JSON with groups of settings, e.g. an earlier run's plan/settings.json."
    ),
]
Output = Annotated[str, typer.Option(help=f"Folder or fsspec URL of the run. Default: {OUTPUT}.", show_default=False)]
Model = Annotated[
    str, typer.Option(help=f"shapes, a diffusers folder, or a hub id. Default: {MODEL}.", show_default=False)
]
Source = Annotated[
    str,
    typer.Argument(help="Folder of videos, or a manifest (CSV, JSONL, Parquet).", show_default=False),
]
Prompts = Annotated[str, typer.Option(help="Prompts file, for a folder.", show_default=False)]
Limit = Annotated[int, typer.Option(min=0, help="Take only the first so many clips. 0: all.")]
Recipe = Annotated[str, typer.Option(help=f"Preset: {', '.join(PRESETS)}; default: balanced.", show_default=False)]


def chosen(
    source: str, prompts: str, model: str, output: str, limit: int = 0, file: str = ""
) -> dict[str, dict[str, Any]]:
    """The fields of the groups of settings that these options are short for. What is left out comes from the settings
    file, where there is one, else from the defaults."""
    if not source and not file:
        raise typer.BadParameter("give a folder of videos or a manifest, or --settings with dataset.source")
    if not file:
        model, output = model or MODEL, output or OUTPUT
    dataset: dict[str, Any] = {"source": source, "prompts": prompts, "limit": limit}
    groups = {"dataset": dataset, "model": {"path": model}, "output": {"root": output}}
    return {group: {name: value for name, value in fields.items() if value} for group, fields in groups.items()}

"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from cogvideo_core.settings.presets import PRESETS
from flows.settings import MODEL, OUTPUT

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
    typer.Argument(
        help="Folder of videos, a manifest (CSV, JSON, Parquet), tars, hf://datasets/...", show_default=False
    ),
]
Prompts = Annotated[str, typer.Option(help="Prompts file, for a folder.", show_default=False)]
Limit = Annotated[int, typer.Option(min=0, help="Take only the first so many clips. 0: all.")]
Recipe = Annotated[
    str,
    typer.Option(
        help=f"Preset: {', '.join(PRESETS)}; or a recipe.yaml of cogvideo-edit tune. Default: balanced.",
        show_default=False,
    ),
]

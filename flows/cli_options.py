"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cogvideo_core.presets import PRESETS

Set = Annotated[
    list[str], typer.Option("--set", help="Any setting, as group.field=value, e.g. --set recipe.reference_end=0.3")
]
Output = Annotated[str, typer.Option(help="Folder or fsspec URL of the run.")]
Model = Annotated[str, typer.Option(help="shapes, a diffusers folder, or a hub id.")]
Source = Annotated[str, typer.Argument(help="Folder of videos, or a manifest (CSV, JSONL, Parquet).")]
Prompts = Annotated[str, typer.Option(help="Prompts file, for a folder.")]
Recipe = Annotated[str, typer.Option(help=f"Preset: {', '.join(PRESETS)}.")]


def chosen(source: str, prompts: str, model: str, output: str) -> dict[str, dict[str, Any]]:
    """The fields of the groups of settings that these options are short for."""
    return {"dataset": {"source": source, "prompts": prompts}, "model": {"path": model}, "output": {"root": output}}

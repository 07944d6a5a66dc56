"""Studies: questions about the method that are answered with figures, on the shapes model or on the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.exits import sentences
from flows.cli.options import Prompts, Set, SettingsFile
from flows.settings import given_of, settings_of

app = typer.Typer(no_args_is_help=True, help="Studies whose figures stand in docs/.")


@app.callback()
def studies() -> None:
    """Studies whose figures stand in docs/."""


@app.command("inversion")
def inversion(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go, as JSON, after each row.")],
    limit: Annotated[int, typer.Option(min=2, help="How many clips, the first ones.")] = 24,
    model: Annotated[str, typer.Option(help="shapes, a diffusers folder, or a hub id.")] = "shapes",
    clips: Annotated[
        str,
        typer.Option(help="Your own clips with captions, as of cogvideo-edit run. Default: the shapes bench's."),
    ] = "",
    prompts: Prompts = "",
    page: Annotated[
        Path | None, typer.Option(help="A markdown page whose tables and figures are renewed; begun if not there.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what the JSON has of the same model, clips and steps.")
    ] = False,
    guided: Annotated[int, typer.Option(min=2, help="How many of them are sampled with guidance.")] = 8,
    steps: Annotated[int, typer.Option(min=4, max=250, help="Of every inversion and sampling.")] = 50,
    settings: SettingsFile = "",
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Compare inverters and the causes of their errors, and say which findings of docs/inversion.md hold.

    [dim]cogvideo-edit study inversion --json docs/inversion.json --page docs/inversion.md[/dim]
    [dim]cogvideo-edit study inversion --model THUDM/CogVideoX-5b --clips clips.jsonl --limit 8 --json out/5b.json[/dim]
    """
    from cogvideo_core.study.run import Wanted, inversion_study

    with sentences():
        given = given_of({"dataset": {"source": clips, "prompts": prompts}, "model": {"path": model}})
        groups = settings_of("", given, sets, settings)
        dataset = groups["dataset"] if clips or settings else None
        wanted = Wanted(groups["model"], limit, json_file, page, dataset, guided, steps, resume)
        for row in inversion_study(wanted, typer.echo)["findings"]:
            typer.echo(f"{row['holds']:>4}  {row['claim']} ({row['margin_db']} dB)")
